"""Memory that worker processes would hold for nothing."""

from __future__ import annotations

import ctypes
import sys


def release_freed() -> None:
    """Give the system what the C library keeps of freed memory; only glibc can be asked to.

    A forked process shares each page until one of the two writes to it. What lies freed in this process is written to
    in the next step, and its old content would stay with the workers as long as they live.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
