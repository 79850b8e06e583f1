"""Iterators: used up by whoever iterates, and never to be set back, but some of them can be copied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any


def copied_iterator(iterator: Any) -> Any:
    """Another iterator at the same place, over the same objects.

    For those of Python and of itertools, as far as the version of Python can copy them (itertools' up to 3.13).

    Raises:
        TypeError: It is none of them, or takes its items from one that is none, such as a generator.
    """
    if not is_builtin_iterator(type(iterator)):
        raise TypeError(type(iterator).__name__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        make, given, *state = iterator.__reduce__()
        copied = make(*map(_copied_part, given))
        if state:
            copied.__setstate__(_copied_part(state[0]))
    return copied


def _copied_part(part: Any) -> Any:
    if isinstance(part, Iterator):
        return copied_iterator(part)
    if type(part) is tuple:  # its state: a list in it is its own
        return tuple(list(item) if type(item) is list else _copied_part(item) for item in part)
    return part


def is_builtin_iterator(kind: type) -> bool:
    """Whether ``kind`` is a class of iterators of Python itself or of itertools."""
    return kind.__module__ in ("builtins", "itertools") and issubclass(kind, Iterator)
