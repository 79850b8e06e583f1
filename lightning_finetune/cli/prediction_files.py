"""What a task says about files, as a table and as pictures; of several processes each writes its own share."""

from __future__ import annotations

import csv
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from lightning_finetune.cli.machine import taken
from lightning_finetune.data.pixels.decode import load_image, visible
from lightning_finetune.errors import FinetuneError
from lightning_finetune.show.figures.predictions import overlay
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.shared.csv_cells import safe

TABLE, MASKS, OVERLAYS = "predictions.csv", "masks", "overlays"
"""What a prediction writes."""

_HEADER = -1
"""The place of the names of the columns in the table of a share."""


class Writer:
    """What a task says about files, one at a time: as rows of ``predictions.csv``, as ``masks`` and as ``overlays``.

    One of several processes keeps the rows of its share in a table of its own, with the place of each;
    :meth:`merge` makes one of them.

    Args:
        folder: To write to; one that all processes see.
        root: Folder of the files.
        task: Who says it.
        sources: All files.
        overwrite: Write over what is there.
        rank: Of this process.
        processes: How many there are.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        task: BaseTask,
        sources: Sequence[Any],
        overwrite: bool,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.folder, self.root, self.task = folder, root, task
        self.processes, self.rank = processes, rank
        self.mode: Literal["w", "x"] = "w" if overwrite else "x"
        self.stems = Counter(Path(source).with_suffix("") for source in sources)
        self.table: csv.DictWriter[str] | None = None
        self.file: TextIO | None = None
        self.draws = False
        self.files = ExitStack()

    def __enter__(self) -> Writer:
        if self.processes > 1:  # at once, so that of two such runs in one folder the second is told
            self._open_table()
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()
        if self.processes > 1 and error[0] is not None:
            self._path(self.rank).unlink(missing_ok=True)

    def write(self, place: int, path: Path, prediction: Any) -> None:
        """Write what was predicted for the image of that place."""
        row, mask = self.task.row(prediction), self.task.mask(prediction)
        if row:
            self._add(place, {"file": str(path.relative_to(self.root)), **row})
        if mask is not None:
            self._draw(path, mask)

    def merge(self) -> None:
        """Make one table of those of all processes, after they have all closed theirs."""
        if self.processes == 1:
            return
        paths = [self._path(rank) for rank in range(self.processes)]
        with ExitStack() as stack:
            files = [stack.enter_context(path.open(newline="", encoding="utf-8")) for path in paths]
            rows = heapq.merge(*map(_placed, files), key=lambda row: row[0])
            header = next(rows, None)
            if header is not None:
                out = stack.enter_context(self._new(self.folder / TABLE))
                table = csv.writer(out)
                table.writerow(header[1])
                table.writerows(cells for place, cells in rows if place != _HEADER)
        for path in paths:
            path.unlink()

    def _path(self, rank: int) -> Path:
        return self.folder / (TABLE if self.processes == 1 else f"predictions.{rank}-of-{self.processes}.csv")

    def _add(self, place: int, row: dict[str, object]) -> None:
        numbered = {"": place} if self.processes > 1 else {}
        if self.table is None:
            self.table = csv.DictWriter(self.file or self._open_table(), [*numbered, *row])
            self.table.writer.writerow([*([_HEADER] if numbered else []), *map(safe, row)])
        self.table.writerow({**numbered, **{name: safe(value) for name, value in row.items()}})

    def _open_table(self) -> TextIO:
        self.file = self.files.enter_context(self._new(self._path(self.rank)))
        return self.file

    def _new(self, path: Path) -> TextIO:
        try:  # names of files need not be UTF-8, but what is written must
            return path.open(self.mode, newline="", encoding="utf-8", errors="backslashreplace")
        except FileExistsError as error:  # of a run that began after this one
            raise taken(path) from error

    def _new_folders(self) -> None:
        try:
            for name in (MASKS, OVERLAYS):
                (self.folder / name).mkdir(exist_ok=self.mode == "w" or self.processes > 1)
        except FileExistsError as error:
            raise taken(self.folder / MASKS) from error
        self.draws = True

    def _draw(self, path: Path, ids: npt.NDArray[np.int64]) -> None:
        """Masks lie in the folders of the images; two images of one name keep their endings."""
        if ids.max() > 255:
            raise FinetuneError(f"Expected at most 256 classes for mask files of 8 bits, got {self.task.num_classes}.")
        name = path.stem if self.stems[path.with_suffix("")] == 1 else path.name
        place = path.relative_to(self.root).parent / f"{name}.png"
        if not self.draws:
            self._new_folders()
        mask = Image.fromarray(ids.astype(np.uint8))
        mask.putpalette(_palette())
        _save(mask, self.folder / MASKS / place)
        channels = self.task.arguments["in_channels"]
        white = (self.task.preprocessing or {}).get("white")
        pixels = visible(load_image(path, ids.shape, channels=channels, white=white)).permute(1, 2, 0).numpy()
        _save(Image.fromarray(overlay(pixels, ids)), self.folder / OVERLAYS / place)


def _placed(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The rows of a share, each with its place."""
    return ((int(place), cells) for place, *cells in csv.reader(file))


def _palette() -> list[int]:
    """The colours of overlays for 256 ids, one channel after the other."""
    colours = [round(255 * channel) for colour in colormaps["tab20"].colors for channel in colour]  # type: ignore[attr-defined]
    return (colours * (256 // 20 + 1))[: 3 * 256]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
