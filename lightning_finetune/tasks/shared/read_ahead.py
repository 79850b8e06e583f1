"""Images that are read while the network is busy with those before them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from lightning_finetune.data.pixels.image_files import ready_for_threads
from lightning_finetune.engine.processes import readers

S = TypeVar("S")
T = TypeVar("T")


def read_ahead(read: Callable[[S], T], sources: Sequence[S], *, ahead: int) -> Iterator[T]:
    """What ``read`` gives for each source, in their order.

    Pillow leaves Python to others while it decodes and resizes, so that threads read beside the network.

    Args:
        read: Called in as many threads as there are CPU cores, or where that is one, as it is asked.
        sources: What to read.
        ahead: How many are read, or wait to be, before they are asked for.
    """
    threads = min(readers(), len(sources))
    if threads <= 1:
        yield from map(read, sources)
        return
    ready_for_threads()
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[T]]()
    try:
        for source in sources:
            waiting.append(pool.submit(read, source))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # who asked no further needs no more
