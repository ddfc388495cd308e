"""Exceptions whose messages are for users.

A message says where the problem is, what was given, what is allowed and what to do.
`launch.py` and `python -m neuro` print them without a traceback and exit with `exit_code`.
Internal invariants are `assert`s, whose failures show a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class NeuroError(Exception):
    """Base of all errors that a user can cause or mend."""

    exit_code = 2


class ConfigError(NeuroError):
    """The configuration asks for something that does not exist or cannot work.

    `problems` holds one line for each thing that is wrong, so that all are shown at once.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            text = self.problems[0]
        else:
            lines = "\n".join(f"  {i}. {p}" for i, p in enumerate(self.problems, 1))
            text = f"{len(self.problems)} problems in the configuration:\n{lines}"
        super().__init__(text)

    def __reduce__(self):
        return type(self), (self.problems,)


class DataError(NeuroError):
    """A data file is missing, truncated, of another format, or lacks what its config names."""


class CheckpointError(NeuroError):
    """A run or checkpoint is missing, damaged or belongs to another architecture."""


class RunInUse(NeuroError):
    """Another process writes to the run directory."""


class ExportError(NeuroError):
    """A model cannot be mapped to the hardware target; names the first layer in the way."""


class BackendUnavailable(NeuroError):
    """A backend or package that the configuration asks for is not on this machine."""


class TrialPruned(NeuroError):
    """A trial of a study was pruned, see neuro.search.pruning."""


class DivergedError(NeuroError):
    """Training produced non-finite losses or gradients too often in a row."""

    exit_code = 3


class OutOfMemoryError(NeuroError):
    """Memory ran out while training; the run saved what it had."""

    exit_code = 4


class ProcessLostError(NeuroError):
    """One of a run's processes was killed or can no longer be reached; the others stopped."""

    exit_code = 5


class CriteriaNotMet(NeuroError):
    """A run was completed, but does not meet the criteria of its callbacks."""

    exit_code = 6


class JobsFailed(NeuroError):
    """Some jobs of a sweep failed; it ran the others. The exit code is that of the first one."""

    def __init__(self, errors: Mapping[int, BaseException], jobs: int, advice: str):
        """errors: by the number of the job, of `jobs`."""
        lines = [f"  #{number}: {error}" for number, error in errors.items()]
        text = f"{len(errors)} of {jobs} jobs failed. {advice}"
        super().__init__("\n".join([text, *lines]))
        self.exit_code = getattr(next(iter(errors.values())), "exit_code", 1)


class StorageError(NeuroError):
    """A file of a run cannot be written; the run stopped and its last checkpoint is valid."""

    exit_code = 130  # as for an interrupted run: it can be resumed


class Interrupted(NeuroError):
    """SIGTERM or Ctrl-C ended the run after a finished step; it was saved and can be resumed."""

    exit_code = 130


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest allowed name, or an empty string."""
    matches = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=3, cutoff=0.6)
    swapped = [match for match in matches if sorted(match) == sorted(str(name))]  # modle: model
    return f" Did you mean '{(swapped or matches)[0]}'?" if matches else ""
