"""Progress of long operations: a live bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


@contextmanager
def progress_bar(what: str, unit: str = "time steps") -> Iterator[Callable[[int, int], None]]:
    """Yield a function that reports progress, called with (done, total)."""
    console = Console(stderr=True)
    if not (console.is_terminal and sys.stderr.isatty()):
        yield _Lines(what, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Progress as a log line at every quarter."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit = what, unit
        self._quarters = 0

    def __call__(self, done: int, total: int) -> None:
        if (quarters := 4 * done // total) > self._quarters:
            self._quarters = quarters
            log.info("%s: %d of %d %s", self.what, done, total, self.unit)
