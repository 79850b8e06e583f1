"""Memory that the worker processes of a loader share, and how much of it this process may still take."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lightning_finetune.data.pixels.decode import Pixels, Size

_Shape = np.dtype([("made_for", np.int32, 2), ("shape", np.int32, 3)])


class SharedArrays:
    """Arrays of bytes by number, written by whichever of the processes that share them has one first, read by all.

    Each has an equal part of the memory, of which no more is taken from the system than is written. It has no name:
    it is gone with the last of the processes, however they end.

    Args:
        count: How many arrays there may be.
        nbytes: That all of them may take.

    Raises:
        OSError: The system does not give such memory; only Linux does, to a Python that was built for it.
    """

    def __init__(self, count: int, nbytes: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this Python has no os.memfd_create")
        self.count = count
        self.part = nbytes // count // mmap.PAGESIZE * mmap.PAGESIZE
        self._map(os.memfd_create("arrays"))

    def _map(self, file: int) -> None:
        weakref.finalize(self, os.close, file)
        table = self.count * _Shape.itemsize
        start = -(-table // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(file, start + self.count * self.part)
        memory = mmap.mmap(file, 0)
        self._shapes = np.frombuffer(memory, _Shape, self.count)
        self._bytes = np.frombuffer(memory, np.uint8, offset=start).reshape(self.count, self.part)
        self._file = file

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is started and not forked."""
        from multiprocessing.reduction import DupFd  # not on Windows

        return {"count": self.count, "part": self.part, "_file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map(state["_file"].detach())

    def read(self, number: int, size: Size) -> Pixels | None:
        """A copy of an array: None where none was made for this size, one of no bytes where it could not be kept."""
        with self._locked(number):
            made_for, shape = self._shapes[number].item()
            if made_for.tolist() != list(size):
                return None
            lengths = [length for length in shape.tolist() if length]
            array: Pixels = self._bytes[number, : math.prod(lengths) if lengths else 0].copy()
        return array.reshape(lengths) if lengths else array

    def write(self, number: int, size: Size, array: Pixels) -> None:
        """Keep an array of two or three dimensions, in the place of an earlier one.

        What is not of bytes or too large is not kept, and that is.
        """
        fits = array.dtype == np.uint8 and array.nbytes <= self.part
        with self._locked(number):
            self._shapes[number] = ((0, 0), (0, 0, 0))  # in case this process ends before the last byte
            if fits:
                self._bytes[number, : array.size] = array.ravel()
            self._shapes[number] = (size, (*array.shape, 0)[:3] if fits else (0, 0, 0))

    @contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        """One process at a time; the system gives the lock of one that is killed to the next."""
        import fcntl  # not on Windows

        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)


# Of Linux's control groups, version 2 and version 1: a folder, the files that hold the limit and what is used, and
# the statistic of what of that could be dropped.
_GROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes(root: Path = Path("/")) -> int | None:
    """What is free of the machine and of every control group (a container, a job) that this process is in.

    Args:
        root: Holds ``proc`` and ``sys``.

    Returns:
        Bytes; None where the system does not say.
    """
    limits = [*_of_machine(root / "proc/meminfo")]
    for line in _text(root / "proc/self/cgroup", "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in {"memory", ""}.intersection(controllers.split(",")):
            folder, *names = _GROUPS[name]
            limits += _of_groups(root / "sys/fs/cgroup" / folder, path, *names)
    return max(min(limits), 0) if limits else None


def _of_machine(file: Path) -> Iterator[int]:
    for name, kilobytes, *_ in map(str.split, _text(file).splitlines()):
        if name == "MemAvailable:":
            yield 1024 * int(kilobytes)


def _of_groups(top: Path, path: str, limit: str, used: str, droppable: str) -> Iterator[int]:
    """Of a group and those around it; inside a container the inner names may lead nowhere, and the top is its own."""
    group = top / path.lstrip("/")
    for folder in (group, *group.parents):
        stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
        with suppress(ValueError):  # there is no such file, or it says "max"
            yield int(_text(folder / limit)) - int(_text(folder / used)) + int(stat.get(droppable, 0))
        if folder == top:
            return


def _text(file: Path, otherwise: str = "") -> str:
    try:
        return file.read_text()
    except OSError:
        return otherwise
