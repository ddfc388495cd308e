"""`python -m neuro <command>`: everything that needs no composed experiment.

A command lives in a small module with `register(commands)`, which adds its subparser and sets
`run`, a function of the parsed arguments. Such modules import what is heavy only when they run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from neuro.errors import NeuroError

#: modules that register commands, in the order of the help text
COMMANDS = ("neuro.data.cli", "neuro.analysis.compare.cli", "neuro.analysis.cli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Errors that a user can cure are shown without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m neuro", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(metavar="<command>", required=True)
    for module in COMMANDS:
        importlib.import_module(module).register(commands)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except NeuroError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # its reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
    return 0


if __name__ == "__main__":
    sys.exit(main())
