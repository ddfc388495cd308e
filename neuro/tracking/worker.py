"""Calls to a slow service in a thread of their own, so that training never waits for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Worker:
    """A thread that opens something at the first task and then does tasks in order.

    A task that fails is reported and the next one done; when opening fails, all are dropped.
    """

    def __init__(self, service: str, opener: Callable[[], Any]) -> None:
        self.started = False
        self._service = service
        self._opener = opener
        self._tasks: queue.SimpleQueue[Callable[[Any], Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=service, daemon=True)

    def send(self, task: Callable[[Any], Any]) -> None:
        if not self.started:
            self.started = True
            self._thread.start()
        if self._thread.is_alive():
            self._tasks.put(task)

    def close(self, timeout_s: float) -> bool:
        """Wait until all tasks are done, but not longer than this; whether they are."""
        self._tasks.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            opened = self._opener()
        except Exception as error:
            log.error(
                "%s could not start and records nothing of this run: %s", self._service, error
            )
            return
        for task in iter(self._tasks.get, None):
            try:
                task(opened)
            except Exception as error:
                log.error("%s could not record something: %s", self._service, error)
