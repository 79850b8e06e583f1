"""A list of files that a million of them do not make heavy."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

_AS_IS = ("utf-8", "surrogatepass")  # names need not be UTF-8: what Python reads them as must come back unchanged


class FilePaths(Sequence[Path]):
    """Paths as one block of text; a ``Path`` is made where one is asked for.

    A million ``Path`` objects take half a gigabyte, and to look at one writes its reference count, so that its memory
    is copied into every worker process that looks. The block is only read: forked workers share it, others get it as it
    is.

    Args:
        paths: Their order stays; a text must be as ``Path`` would write it.
    """

    def __init__(self, paths: Iterable[str | Path] = ()) -> None:
        self._text, self._ends = bytearray(), array("q", [0])
        for path in paths:
            self.append(path)

    def append(self, path: str | Path) -> None:
        """Add one path at the end."""
        self._text += str(path).encode(*_AS_IS)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Path: ...
    @overload
    def __getitem__(self, place: slice) -> FilePaths: ...
    def __getitem__(self, place: int | slice) -> Path | FilePaths:
        """The path at a place, or those of a slice."""
        places = range(len(self))[place]
        return self.take(places) if isinstance(places, range) else Path(self._read(places))

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.texts())

    def texts(self) -> Iterator[str]:
        """The paths as text, which is several times faster than ``Path`` objects."""
        return map(self._read, range(len(self)))

    def folders(self) -> Iterator[str]:
        """The folder that each file lies in, as text."""
        return map(os.path.dirname, self.texts())  # `Path.parent` takes ten times as long

    def take(self, places: Iterable[int]) -> FilePaths:
        """The paths at some places, in their order."""
        return FilePaths(map(self._read, places))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FilePaths):
            return self._ends == other._ends and self._text == other._text
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it can grow

    def __repr__(self) -> str:
        return f"<FilePaths of {len(self)} files>"

    def _read(self, place: int) -> str:
        return self._text[self._ends[place] : self._ends[place + 1]].decode(*_AS_IS)


def outside_of(root: Path, files: FilePaths) -> FilePaths:
    """Those of ``files`` that lie elsewhere than under ``root``, by links or by their own paths."""
    top = root.resolve()
    folders = {folder: Path(folder).resolve() for folder in set(files.folders())}
    away = {folder: not place.is_relative_to(top) for folder, place in folders.items()}
    pairs = zip(files.texts(), files.folders(), strict=True)
    return FilePaths(
        text
        for text, folder in pairs
        if away[folder] or (os.path.islink(text) and not Path(text).resolve().is_relative_to(top))  # noqa: PTH114
    )


def select(items: Any, places: Iterable[int]) -> Sequence[Any]:
    """The items of a sequence at some places, compact where they are."""
    return items.take(places) if isinstance(items, FilePaths) else [items[place] for place in places]
