"""How much memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of Linux's control groups, version 2 and version 1: a folder, the files that hold the limit and what is used, and the
statistic of what of that could be dropped."""


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
