"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import compare, data, engine, kernels, memory, startup, step, trainer

for benchmark in (kernels, step, trainer, memory, engine, data, startup, compare):
    benchmark.main()
    print()
