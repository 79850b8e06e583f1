"""Which values the masks of a data set hold, and the class that each stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_finetune.data.block.splits import Split, Splits
from lightning_finetune.data.pixels.mask_values import Ids, MaskSource
from lightning_finetune.errors import DataError, first_ten

VOID = 255
"""The value of pixels that nobody labelled."""

_SHADES = 16  # values without a class, over which they are shades of something rather than ids

Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int32]


def width_of(classes: int) -> int:
    """How many values of a mask are told apart: those of a byte, or as many as there are classes."""
    return 32 * -(-max(256, classes) // 32)


def values_in(ids: Ids, width: int) -> Numbers:
    """Which values below ``width`` a mask holds, 32 in a number.

    Raises:
        DataError: It holds others, except -1, which may stand for what counts for nothing.
    """
    top, low = int(ids.max(initial=0)), int(ids.min(initial=0))
    if top >= width or low < -1:
        raise DataError(f"expected ids 0 to {width - 1}, got {low} to {top}. Save each pixel's position in `codes`")
    counts = np.bincount(ids[ids >= 0].ravel() if low < 0 else ids.ravel(), minlength=width)
    return np.packbits(counts > 0, bitorder="little").view(np.int32)


class MaskIds:
    """The ids of the masks of a data set.

    Args:
        values: Of :func:`values_in` for each mask.
        classes: Names of the classes in the order of their ids.
        ignored: Id that the task leaves out.
        task_known: Whether there is a task that could leave an id out.

    Attributes:
        table: From values to ids ``[width]``, where they differ.
        note: What was found, in a sentence; empty where values are ids.
    """

    def __init__(
        self, values: Numbers, classes: Sequence[str], ignored: int | None = None, *, task_known: bool = False
    ) -> None:
        self.classes, self.ignored, self._task_known = classes, ignored, task_known
        self._kinds, self._kind = np.unique(values, axis=0, return_inverse=True)
        self._held = np.unpackbits(self._kinds.view(np.uint8), axis=1, bitorder="little").astype(bool)
        held = [value for value in self._values() if value != ignored]
        self.table, self.note = _table(held, classes, self._held.shape[1])

    def shown(self) -> Bools:
        """Which classes each mask shows, ``[masks, classes]``; the ignored one is shown by none."""
        ids = np.arange(self._held.shape[1]) if self.table is None else self.table
        kinds = np.zeros((len(self._held), len(self.classes)), dtype=bool)
        for value in self._values():
            if 0 <= ids[value] < len(self.classes) and ids[value] != self.ignored:
                kinds[:, ids[value]] |= self._held[:, value]
        shown: Bools = kinds[self._kind.ravel()]
        return shown

    def problems(self, masks: Sequence[MaskSource]) -> list[str]:
        """What is wrong with single masks: ids that no class has."""
        known = set(range(len(self.classes))) | {VOID, self.ignored}
        outside = {
            kind: [value for value in np.flatnonzero(held).tolist() if value not in known]
            for kind, held in enumerate(self._held)
        }
        if self.table is not None or not any(outside.values()):
            return []
        count, hint = len(self.classes), self._hint({value for values in outside.values() for value in values}, masks)
        return [
            f"{_name(mask)}: expected ids 0 to {count - 1} (or {VOID}, ignored), got {outside[kind][:10]}. {hint}"
            for mask, kind in zip(masks, self._kind.ravel().tolist(), strict=True)
            if outside[kind]
        ]

    def check(self, splits: Splits, masks: Sequence[MaskSource]) -> list[str]:
        """Look at all masks together.

        Args:
            splits: Of the masks.
            masks: They.

        Returns:
            Warnings, in sentences.

        Raises:
            DataError: Training masks hold fewer than two classes, or some masks hold 255 where others hold 1.
        """
        warnings = self._mixed(masks)
        shown = self.shown()[splits == Split.TRAIN].any(0)
        if shown.sum() < 2:
            names = [self.classes[k] for k in np.flatnonzero(shown).tolist()]
            raise DataError(
                f"Expected training masks of at least two classes, got {names or 'none'}: {self._what_they_hold()}"
            )
        if VOID in self._values() and self.table is None and self._task_known and self.ignored != VOID:
            raise DataError(
                f"Expected mask ids 0 to {len(self.classes) - 1}, got {VOID} too. If those pixels count for nothing, "
                f"give the task ignore_index={VOID}."
            )
        missing = [name for k, name in enumerate(self.classes) if not shown[k] and k != self.ignored]
        if missing:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            warnings.append(
                f"No training mask shows {missing[:10]}{more}, which cannot be learned. Are `codes` in their order?"
            )
        return warnings

    def _values(self) -> list[int]:
        held: list[int] = np.flatnonzero(self._held.any(0)).tolist()
        return held

    def _what_they_hold(self) -> str:
        held = self._values()
        text = f"the masks hold the values {held[:10]}"
        if VOID in held and self.ignored == VOID:
            return f"{text}, and ignore_index={VOID} leaves out {VOID}. If it is a class, leave ignore_index out."
        if VOID in held:
            return f"{text}, of which {VOID} counts for nothing. Name each class (`codes`; of a dataset `classes`)."
        return f"{text}. Label others too."

    def _mixed(self, masks: Sequence[MaskSource]) -> list[str]:
        """Masks that hold 255 as others hold 1: a class that was saved in two ways, and would be lost in some."""
        ids = np.arange(self._held.shape[1])
        void, labelled = self._held[:, VOID], self._held[:, (ids > 0) & (ids != VOID)].any(1)
        if self.table is not None or not void.any() or not labelled.any() or (void & labelled).any():
            return []
        kinds = np.flatnonzero(void)
        rows = np.flatnonzero(np.isin(self._kind.ravel(), kinds)).tolist()
        text = (
            f"{len(rows)} masks hold {VOID} where others hold ids from 1 on, and none holds both; "
            f"{VOID} would count for nothing:{first_ten(_name(masks[row]) for row in rows)}"
        )
        if self.ignored == VOID:
            return [text]
        raise DataError(f"Expected masks that were saved alike; {text}\nIf {VOID} is a class there, save its id.")

    def _hint(self, outside: set[int], masks: Sequence[MaskSource]) -> str:
        """Why there may be such values."""
        if len(outside) > _SHADES:
            if any(Path(_name(mask)).suffix.lower() in (".jpg", ".jpeg") for mask in masks):
                return "They are JPEG files, whose compression changes ids: save masks as PNG"
            return "These are shades, as a resize leaves them between ids: make masks with nearest neighbour"
        held = self._values()
        if len(held) == len(self.classes) and not {VOID, self.ignored} & {*held}:
            return f"These are as many values as `codes` has names: save np.searchsorted({held}, mask)"
        return (
            f"`codes` has {len(self.classes)} names: give one for each id, or the task ignore_index for one id that "
            "counts for nothing"
        )


def _table(held: Sequence[int], classes: Sequence[str], width: int) -> tuple[npt.NDArray[Any] | None, str]:
    """From values to ids where the values are no ids but can be nothing else, and what is said then."""
    count = len(classes)
    spread = [round(255 * k / (count - 1)) for k in range(count)] if count > 1 else []
    ones = [value for value in held if value != VOID]
    if max(held, default=0) < count:
        return None, ""
    if len(held) == count and count > 1 and all(abs(a - b) <= 1 for a, b in zip(held, spread, strict=True)):
        of = dict(zip(held, range(count), strict=True))
    elif ones and max(ones) == count and min(ones) == 1:
        of = {value: value - 1 for value in range(1, count + 1)}
    else:
        return None, ""
    table = np.arange(width, dtype=np.uint8 if width <= VOID + 1 else np.int32)
    table[list(of)] = list(of.values())
    pairs = ", ".join(f"{value} is taken as {classes[k]!r}" for value, k in of.items() if value in held)
    return table, f"The masks hold {held}, which are no ids from 0 on: {pairs}."


def _name(mask: MaskSource) -> str:
    return str(mask) if isinstance(mask, (str, Path)) else "a mask in memory"
