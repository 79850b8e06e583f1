"""What the files of a data set hold, read once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_finetune.data.block.check import look, rank_and_world, refuse
from lightning_finetune.data.block.items import Items
from lightning_finetune.data.block.mask_ids import MaskIds, Numbers
from lightning_finetune.data.block.paths import FilePaths, outside_of
from lightning_finetune.data.block.rows import Pictures
from lightning_finetune.data.block.splits import Split
from lightning_finetune.data.block.summary import Summary, repeated, summarize
from lightning_finetune.data.pixels.decode import file_depth
from lightning_finetune.data.pixels.depth import Depth, white_of
from lightning_finetune.data.pixels.draws import Ints
from lightning_finetune.data.pixels.image_files import is_array
from lightning_finetune.data.pixels.mask_values import MaskSource
from lightning_finetune.errors import DataError, first_ten

log = logging.getLogger(__name__)

_NONE = np.empty(0, np.int64)


class Examined:
    """A data set whose files are read when that is asked for, each once.

    Args:
        items: Split and labelled.
        channels: Of an image.
        white: The value that is white in images of more than 8 bits, where the user says it.

    Attributes:
        classes: Their names.
        targets: For all items.
    """

    def __init__(self, items: Items, channels: int = 3, white: float | None = None) -> None:
        self.items, self.channels, self._given_white = items, channels, white
        self.splits, self.labels = items.complete()
        self.classes, self.targets = self.labels.encode(self.splits)
        self._task: Mapping[str, Any] = {}
        self._told = False
        self._files = None if isinstance(items.images, Pictures) else items.images
        self._masks: Sequence[MaskSource] | None = self.labels.values if self.labels.kind == "mask" else None
        self._sizes = np.zeros((len(self.splits), 2), np.int32)
        self._values: Numbers = np.empty((0, 0), np.int32)  # of no mask yet
        self._tops: dict[Depth, float] = {}
        self._white: float | None = None
        self._decoded = np.zeros(len(self.splits), dtype=bool)

    @property
    def white(self) -> float | None:
        """The value that is white in images of more than 8 bits; None where their type says it.

        Raises:
            DataError: It cannot be known.
        """
        if self._given_white is not None:
            return self._given_white
        if not self._tops and self._first_is_deep():
            rows = np.arange(len(self.splits))
            refuse(self._fill(rows, rows, threads=1, shared=False), None)
        return white_of(self._tops)

    def _first_is_deep(self) -> bool:
        """By the first training image alone: to open all would take minutes of a million."""
        rows = np.flatnonzero(self.splits == Split.TRAIN)
        first = self._files[int(rows[0])] if self._files and len(rows) else None
        return isinstance(first, Path) and not is_array(first) and file_depth(first) != Depth.EIGHT

    @property
    def table(self) -> npt.NDArray[Any] | None:
        """From the values of masks to ids ``[values]``; None where they are ids."""
        ids = self._mask_ids()
        return None if ids is None else ids.table

    def ignores(self, arguments: Mapping[str, Any]) -> None:
        """Note which id of masks a task leaves out, if its arguments say ``ignore_index``."""
        self._task = arguments

    def read(self, splits: Collection[Split], *, threads: int, reports: Path) -> None:
        """Decode the images of some splits and, the first time, look at all masks; each process takes its share.

        Args:
            splits: Those that are read already are not read again.
            threads: How many read at a time.
            reports: Folder for a list of bad files.

        Raises:
            DataError: Some cannot be used; it names all of them. Or nothing could be learned from the masks.
        """
        rows = np.flatnonzero(np.isin(self.splits, list(splits)) & ~self._decoded)
        if self._files is not None and len(rows):
            self._say_files()
            log.info("Reading %d images once, to find broken ones before training.", len(rows))
        problems = self._fill(rows, rows, threads, shared=True)
        ids = None if self._told else self._mask_ids()
        if ids is not None:
            problems = [*problems, *ids.problems(self._masks or ())]
        refuse(problems, reports)
        white = self.white
        if self._decoded.any() and white != self._white:
            before, now = (value or "that of their type" for value in (self._white, white))
            raise DataError(
                f"white: expected values as of the images before, whose white is {before}, got others, whose white is "
                f"{now}. Say it for all: white=…"
            )
        self._white = white
        self._decoded[rows] = True
        if ids is not None:
            self._tell(ids)
            self._told = True

    def summary(self, threads: int = 1, *, compare: bool = True) -> Summary:
        """Counts, class balance and sizes, and warnings of what looks wrong.

        Args:
            threads: How many read at a time.
            compare: Look for images of equal content in different splits.

        Raises:
            DataError: Some files are no images.
        """
        refuse(self._fill(_NONE, np.flatnonzero(self._sizes[:, 0] == 0), threads, shared=False), None)
        ids = self._mask_ids()
        told = self._files, self.splits, self.labels, self.classes, self.targets, self._sizes
        return summarize(*told, None if ids is None else ids.shown(), compare)

    def _fill(self, decoded: Ints, measured: Ints, threads: int, *, shared: bool) -> list[str]:
        """Decode and measure images and, the first time, look at all masks; what is wrong with them."""
        masks = None if len(self._values) else self._masks
        rows = np.arange(len(self.splits)) if masks is not None else np.union1d(decoded, measured)
        if masks is None and self._files is None:
            return []
        seen = look(
            self._files,
            masks,
            len(self.classes),
            self.channels,
            rows=rows,
            decoded=decoded,
            threads=threads,
            shared=shared,
        )
        self._sizes[rows] = seen.sizes
        for depth, top in seen.tops.items():
            self._tops[depth] = max(top, self._tops.get(depth, 0.0))
        if masks is not None:
            self._values = seen.values
        return seen.problems

    def _mask_ids(self) -> MaskIds | None:
        """What the masks hold, if there are any; they are read if they were not."""
        if self._masks is None:
            return None
        if not len(self._values):
            refuse(self._fill(_NONE, _NONE, threads=1, shared=False), None)
        ignored = self._task.get("ignore_index")
        return MaskIds(self._values, self.classes, ignored, task_known="ignore_index" in self._task)

    def _say_files(self) -> None:
        """Files that lie elsewhere or are named twice are read all the same; one process says so once."""
        files, root = self.items.images, self.items.root
        if self._decoded.any() or not isinstance(files, FilePaths) or rank_and_world()[0] > 0:
            return
        for text in repeated(files, self.splits, self.labels):
            log.warning(text)
        away = FilePaths() if root == Path() else outside_of(root, files)
        if away:
            log.warning("%d images lie outside of %s, and are read:%s", len(away), root, first_ten(away))

    def _tell(self, ids: MaskIds) -> None:
        """Check all masks together; one process says what was found."""
        warnings = ids.check(self.splits, self._masks or ())
        if rank_and_world()[0] == 0:
            for text in filter(None, (ids.note, *warnings)):
                log.warning(text)
