"""`python -m neuro <command>`: everything that needs no composed experiment.

Each command is a small module with `register(commands)`, which adds a subparser and sets its
`run`, a function of the parsed arguments. Such modules import heavy packages only when they run.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from neuro.errors import NeuroError
from neuro.runtime.output import make_output_robust

#: modules that register commands, in the order of the help text
COMMANDS = (
    "neuro.data.cli",
    "neuro.experiment.info",
    "neuro.analysis.lithography_cli",
    "neuro.analysis.compare.cli",
    "neuro.analysis.cli",
    "neuro.search.cli",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors for users are shown without a traceback."""
    make_output_robust()
    parser = argparse.ArgumentParser(
        prog="python -m neuro", description="Commands that need no composed experiment."
    )
    commands = parser.add_subparsers(metavar="<command>", required=True)
    for module in COMMANDS:
        importlib.import_module(module).register(commands)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except NeuroError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
