"""`make bench`: everything that is measured, as ratios within one run."""

from benchmarks import (
    compare,
    data,
    dendrite,
    engine,
    hybrid,
    kernels,
    language,
    lithography,
    memory,
    neurons,
    search,
    startup,
    step,
    trainer,
)

for benchmark in (
    kernels, neurons, dendrite, lithography, language, hybrid, step, trainer, memory, engine, data,
    startup, compare, search,
):  # fmt: skip
    benchmark.main()
    print()
