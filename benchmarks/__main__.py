"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import (
    compare,
    data,
    dendrite,
    engine,
    kernels,
    memory,
    search,
    startup,
    step,
    trainer,
)

for benchmark in (kernels, dendrite, step, trainer, memory, engine, data, startup, compare, search):
    benchmark.main()
    print()
