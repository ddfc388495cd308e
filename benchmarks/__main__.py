"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import data, kernels, startup, step

for benchmark in (kernels, step, data, startup):
    benchmark.main()
    print()
