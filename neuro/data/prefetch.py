"""Prefetch the batches of any loader in a thread, so that reading overlaps with training."""

from __future__ import annotations

import threading
from collections.abc import Generator
from queue import SimpleQueue

import torch
from torch import Tensor

from neuro.data.base import Batch, Loader, WrappedLoader


class Prefetch(WrappedLoader):
    """The batches of a loader in its order, up to `ahead` of them made before they are needed.

    For a GPU they are put into pinned memory, which allows copying during computation. An error of
    the loader is raised in place of its batch. The thread ends with the iteration, also if that is
    closed early. No thread is used for `ahead` 0, nor for loaders that use losses, whose batches
    depend on the updates before them.
    """

    def __init__(self, loader: Loader, ahead: int, device: torch.device):
        super().__init__(loader)
        self.ahead = 0 if loader.uses_losses else ahead
        self.device = device

    def batches(self, epoch: int = 0, start: int = 0) -> Generator[Batch, None, None]:
        if self.ahead == 0:
            yield from self.loader.batches(epoch, start)
            return
        made: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
        free, closed = threading.Semaphore(self.ahead), threading.Event()

        def work() -> None:
            pinned = self.device.type == "cuda"
            try:
                if pinned:  # devices are set per thread; pinning would use the first one
                    torch.cuda.set_device(self.device)
                batches = self.loader.batches(epoch, start)
                while free.acquire() and not closed.is_set():
                    batch = next(batches, None)
                    if batch is None:
                        break
                    made.put(batch.map(Tensor.pin_memory) if pinned else batch)
                made.put(None)
            except BaseException as error:
                made.put(error)

        thread = threading.Thread(target=work, name="prefetch", daemon=True)
        thread.start()
        try:
            while (found := made.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                free.release()
                yield found
        finally:
            closed.set()
            free.release()
            thread.join()
