"""Where files are that a table or a list names otherwise."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_finetune.data.block.tables import Table, column_of
from lightning_finetune.data.pixels.image_files import is_image

_LOOKED_FOR = 100  # names of which each must be found


class Place(NamedTuple):
    """What is missing in names: the folder before them, the ending after them."""

    folder: str
    suffix: str

    def advice(self) -> str:
        """The arguments that say it."""
        return ", ".join(f"{name}={value!r}" for name, value in self._asdict().items() if value)


def advice_on(root: Path, names: Sequence[str], table: Table, folder: str, suffix: str) -> str:
    """What would make the names of a table those of images, in a sentence; empty where nothing would.

    Args:
        root: Folder of the data set.
        names: As the table gives them.
        table: It may have names in another column.
        folder: That was put before the names.
        suffix: That was put after them.
    """
    missing = [name for name in names if name and not (root / folder / f"{name}{suffix}").is_file()]
    place = place_of(root, missing)
    if place is not None:
        return f"\nThey are there {f'with {place.advice()}' if any(place) else 'without folder and suffix'}."
    for column in map(str, table.columns):
        others = [str(name) for name in column_of(table, column)]
        if others != list(names) and place_of(root, others) is not None:
            return f"\nThe column {column!r} names images: image_col={column!r}."
    if place_of(root, [str(name) for name in table.index]) is not None:
        return "\nThe index of the table names images. Make it the first column: table.reset_index()."
    return _written_otherwise(root, [f"{folder}/{name}{suffix}" for name in missing])


def _written_otherwise(root: Path, names: Sequence[str]) -> str:
    """Advice on names that differ from those of images by what other systems take for equal."""
    wanted = {_folded(name): name for name in names[:_LOOKED_FOR]}
    paths = (Path(at, file).relative_to(root).as_posix() for at, _, files in os.walk(root) for file in files)
    there = {key: path for path in paths if (key := _folded(path)) in wanted}
    if not wanted or len(there) < len(wanted):
        return ""
    key, name = next(iter(wanted.items()))
    pair = there[key], name.lstrip("/")
    named, meant = map(ascii if len({unicodedata.normalize("NFC", one) for one in pair}) == 1 else repr, pair)
    return (
        f"\nThey are there, but written otherwise, such as {named} for {meant}: capitals, \\ for / and the Unicode "
        "form of accents count. Write them in the table as the files are named."
    )


def _folded(path: str) -> str:
    """A path as Windows and macOS would compare it."""
    return posixpath.normpath(unicodedata.normalize("NFC", path).replace("\\", "/")).strip("/").casefold()


def place_of(root: Path, names: Sequence[str]) -> Place | None:
    """The one folder and ending with which the names are those of images under ``root``, if there are any.

    Args:
        root: Folder of the data set, which is walked through.
        names: As they are given.
    """
    wanted = list(dict.fromkeys(names))[:_LOOKED_FOR]
    bare = {Path(name).name for name in wanted}
    paths = _paths_by_stem(root, bare | {os.path.splitext(name)[0] for name in bare})  # noqa: PTH122
    common = set.intersection(*(set(_places(name, paths)) for name in wanted)) if wanted else set[Place]()
    return min(common, key=lambda place: (len(place.folder), place), default=None)


def _paths_by_stem(root: Path, stems: set[str]) -> dict[str, list[str]]:
    """Paths of images from ``root``, by their names without ending."""
    paths: dict[str, list[str]] = defaultdict(list)
    for at, _, files in os.walk(root):
        for file in files:
            stem = os.path.splitext(file)[0]  # noqa: PTH122  # of a million texts
            if stem in stems and is_image(file):
                paths[stem].append(Path(at, file).relative_to(root).as_posix())
    return paths


def _places(name: str, paths: dict[str, list[str]]) -> Iterable[Place]:
    """Where images lie whose paths hold ``name``, cut at a folder."""
    stem = os.path.splitext(Path(name).name)[0]  # noqa: PTH122
    for path in {*paths.get(stem, ()), *paths.get(Path(name).name, ())}:
        for suffix in ("", Path(path).suffix):
            if path.endswith(f"{name}{suffix}"):
                before = path[: len(path) - len(name) - len(suffix)]
                if not before or before.endswith("/"):
                    yield Place(before.rstrip("/"), suffix)
