"""Errors that a user can act on: each says what was expected, what was got, and how to mend it."""

from __future__ import annotations

import difflib
import sys
import warnings
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


def gone_worker(error: BaseException) -> str | None:
    """What became of the worker process of a ``DataLoader``, and what to do; None where ``error`` says another thing.

    An error that a worker raised begins otherwise, and is no sign of a process that was killed.
    """
    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")):
        return None
    return (
        f"A process that loads data is gone: {str(error).rstrip('. ')}. Most often memory ran out: use fewer workers "
        "(`num_workers`) or smaller batches, and resume from the last checkpoint."
    )


def explain(error: BaseException) -> None:
    """Put what :func:`gone_worker` says below an error of somebody else's loader.

    Before Python 3.11, which has notes, it is a warning above the error.
    """
    text = gone_worker(error)
    if text is None or text in getattr(error, "__notes__", ()):
        return
    if sys.version_info >= (3, 11):
        error.add_note(text)
    else:
        warnings.warn(text, stacklevel=2)
