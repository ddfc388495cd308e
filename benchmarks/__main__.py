"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import (
    compare,
    data,
    dendrite,
    engine,
    kernels,
    language,
    lithography,
    memory,
    search,
    startup,
    step,
    trainer,
)

for benchmark in (
    kernels, dendrite, lithography, language, step, trainer, memory, engine, data, startup, compare,
    search,
):  # fmt: skip
    benchmark.main()
    print()
