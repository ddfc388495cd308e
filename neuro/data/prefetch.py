"""Batches that a thread makes ahead of time, for any loader: reading overlaps with computing."""

from __future__ import annotations

import threading
from collections.abc import Generator
from queue import SimpleQueue

import torch
from torch import Tensor

from neuro.data.base import Batch, Loader, WrappedLoader


class Prefetch(WrappedLoader):
    """The batches of a loader in its order, up to `ahead` of them made before they are needed.

    On a GPU they lie in pinned memory, from which they are copied while it computes. An error of
    the loader is raised where its batch would have come. The thread ends with the iteration, also
    with one that is closed early. 0 batches ahead use no thread, nor do loaders that use losses:
    their batches depend on the updates before them.
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
                if pinned:  # of this thread; otherwise it opens a context on the first device
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
