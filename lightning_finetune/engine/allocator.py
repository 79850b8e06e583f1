"""What the C library does with freed memory; only glibc can be asked to do otherwise, elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed() -> None:
    """Keep freed memory of any size, for this process and for good.

    Else each large block, as the activations of a step on the CPU are, is taken anew from the system page by page: a
    fifth of a step at 128 pixels, and a third at 224. ``LIGHTNING_FINETUNE_KEEP_MEMORY=0`` leaves all as it is.
    """
    if os.environ.get("LIGHTNING_FINETUNE_KEEP_MEMORY") != "0" and (libc := _glibc()):
        libc.mallopt(_MMAP_MAX, 0)  # no block of its own, which would go back as a whole
        libc.mallopt(_TRIM_THRESHOLD, -1)


def release_freed() -> None:
    """Give freed memory back to the system, once.

    A forked process shares each page until one of the two writes to it. What lies freed in this process is written to
    in the next step, and its old content would stay with the workers as long as they live.
    """
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None  # musl has none
