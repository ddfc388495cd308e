"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import data, engine, kernels, startup, step

for benchmark in (kernels, step, engine, data, startup):
    benchmark.main()
    print()
