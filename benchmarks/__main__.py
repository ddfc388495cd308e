"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import (
    compare,
    data,
    dendrite,
    engine,
    kernels,
    lithography,
    memory,
    search,
    startup,
    step,
    trainer,
)

for benchmark in (
    kernels, dendrite, lithography, step, trainer, memory, engine, data, startup, compare, search,
):  # fmt: skip
    benchmark.main()
    print()
