"""A background thread for calls to a slow service, so that training does not wait for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

SessionT = TypeVar("SessionT")


class Worker(Generic[SessionT]):
    """Runs tasks in order in one thread, each with the session that `open_session` returns.

    The thread and the session start with the first task. If a task raises, the error is logged and
    the next task runs. If `open_session` raises, the error is logged and all tasks are dropped.
    """

    def __init__(self, service: str, open_session: Callable[[], SessionT]) -> None:
        """`service`: name of the thread, also used in log messages."""
        self.started = False
        self._service = service
        self._open_session = open_session
        self._tasks: queue.SimpleQueue[Callable[[SessionT], object] | None] = queue.SimpleQueue()
        # a daemon: the process can end although a service never answers
        self._thread = threading.Thread(target=self._work, name=service, daemon=True)

    def send(self, task: Callable[[SessionT], object]) -> None:
        """Queue a task, and start the thread if this is the first one."""
        if not self.started:
            self.started = True
            self._thread.start()
        if self._thread.is_alive():
            self._tasks.put(task)

    def close(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` for all tasks to end; returns True if they did."""
        self._tasks.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            session = self._open_session()
        except Exception as error:
            log.error(
                "%s could not start and records nothing of this run: %s", self._service, error
            )
            return
        for task in iter(self._tasks.get, None):
            try:
                task(session)
            except Exception as error:
                log.error("%s could not record something: %s", self._service, error)
