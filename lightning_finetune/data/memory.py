"""Memory of worker processes: what they would hold for nothing, and what they share."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import weakref
from multiprocessing import Lock
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from lightning_finetune.data.decode import Pixels, Size

SHARED = 2**30
"""Bytes that decoded images of a split may take, and as many its masks."""

_Shape = np.dtype([("made_for", np.int32, 2), ("shape", np.int32, 3)])


def release_freed() -> None:
    """Give the system what the C library keeps of freed memory; only glibc can be asked to.

    A forked process shares each page until one of the two writes to it. What lies freed in this process is written to
    in the next step, and its old content would stay with the workers as long as they live.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class SharedArrays:
    """Arrays of bytes by number, written by whichever of the processes that share them has one first, read by all.

    Each has an equal part of the memory, of which no more is taken from the system than is written. It has no name:
    it is gone with the last of the processes, however they end. Only Linux has such memory.

    Args:
        count: How many arrays there may be.
        nbytes: That all of them may take.
    """

    is_possible = hasattr(os, "memfd_create")

    def __init__(self, count: int, nbytes: int) -> None:
        self.count = count
        self.part = nbytes // count // mmap.PAGESIZE * mmap.PAGESIZE
        self._lock = Lock()
        self._map(os.memfd_create("arrays"))

    def _map(self, file: int) -> None:
        table = self.count * _Shape.itemsize
        start = -(-table // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(file, start + self.count * self.part)
        memory = mmap.mmap(file, 0)
        self._shapes = np.frombuffer(memory, _Shape, self.count)
        self._bytes = np.frombuffer(memory, np.uint8, offset=start).reshape(self.count, self.part)
        self._file = file
        weakref.finalize(self, os.close, file)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is started and not forked."""
        return {"count": self.count, "part": self.part, "_lock": self._lock, "_file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map(state["_file"].detach())

    def read(self, number: int, size: Size) -> Pixels | None:
        """A copy of an array; None where there is none that was made for this size."""
        if size[0] * size[1] > self.part:
            return None
        with self._lock:
            made_for, shape = self._shapes[number].item()
            if made_for.tolist() != list(size):
                return None
            lengths = [length for length in shape.tolist() if length]
            array: Pixels = self._bytes[number, : math.prod(lengths)].reshape(lengths).copy()
        return array

    def write(self, number: int, size: Size, array: Pixels) -> None:
        """Keep an array of bytes, of two or three dimensions, in the place of an earlier one; not what is too large."""
        if array.dtype != np.uint8 or array.nbytes > self.part:
            return
        with self._lock:
            self._bytes[number, : array.size] = array.ravel()
            self._shapes[number] = (size, (*array.shape, 0)[:3])
