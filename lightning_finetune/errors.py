"""Errors that a user can act on: each says what was expected, what was got, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice


class FinetuneError(ValueError):
    """Root of every error that this package raises on purpose."""


class PhaseError(FinetuneError):
    """A phase, or a list of them, that cannot be followed."""


class LayerGroupError(FinetuneError):
    """Layer groups that are not complete, not disjoint, or match nothing."""


class UnsupportedError(FinetuneError):
    """A strategy, optimizer or loop that the package cannot serve correctly."""


class DataError(FinetuneError):
    """Images, labels or folders that cannot be trained on."""


class CheckpointError(FinetuneError):
    """A file that is not a checkpoint of this package, or of another task."""


def no_folder(folder: object) -> DataError:
    """The error of a folder of images that does not exist."""
    return DataError(f"{folder}: expected a folder of images, but there is none.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest of ``known``, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_ten(names: Iterable[object]) -> str:
    """The first ten of ``names``, one per line, and how many more there are."""
    rest = iter(names)
    rows = [str(name) for name in islice(rest, 10)]
    left = sum(1 for _ in rest)
    return "\n  ".join(["", *rows, *([f"… and {left} more"] if left else [])])
