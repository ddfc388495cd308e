"""`make bench`: everything that is measured, as ratios within one run; or the benchmarks named."""

import argparse
import importlib

from neuro.errors import nearest

BENCHMARKS = {
    "kernels": "LIF and dual-timescale neurons against loops",
    "neurons": "recurrent and adaptive neurons against snnTorch, norse and SpikingJelly",
    "dendrite": "networks of dendrites against a loop",
    "lithography": "aerial images on two grids",
    "language": "scan, training and generation of the language models",
    "hybrid": "selective scan and CfC against mambapy, ncps and torch's GRU",
    "step": "a training step of LT-Gate against steps frame by frame",
    "trainer": "what the trainer adds to a step",
    "memory": "peak memory of a training step",
    "engine": "the integer engine and Lava",
    "data": "reading samples: in memory, lazily, one by one",
    "startup": "composition, and the first step of the default run",
    "compare": "the table and page of 200 runs",
    "search": "overhead, pruning and workers of a search",
}


def main() -> None:
    width = max(map(len, BENCHMARKS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure, as ratios within one run. Without names: everything.",
        epilog="\n".join(f"  {name:{width}}  {what}" for name, what in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="see below")
    names = parser.parse_args().names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark '{name}'.{nearest(name, BENCHMARKS)}")
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()
        print()


if __name__ == "__main__":
    main()
