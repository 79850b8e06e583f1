"""Batches, loaders and whatever else lies in nested dicts, lists and tuples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any


def map_nested(change: Callable[[Any], Any], nested: Any) -> Any:
    """The same nesting, with ``change`` of each thing that is neither a dict nor a list nor a tuple."""
    if isinstance(nested, dict):
        changed = copy.copy(nested)  # so that its class, order and default stay
        changed.update({key: map_nested(change, value) for key, value in nested.items()})
        return changed
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(map_nested(change, item) for item in nested))
    if type(nested) in (list, tuple):
        return type(nested)(map_nested(change, item) for item in nested)
    return change(nested)


def leaves(nested: Any) -> list[Any]:
    """The things themselves, in the order in which :func:`map_nested` comes upon them."""
    values: list[Any] = []
    map_nested(values.append, nested)
    return values


def placed_leaves(nested: Any, name: str = "", index: int | None = None) -> Iterator[tuple[str, int | None, Any]]:
    """Each thing with the last key and the place in the innermost list that lead to it, in the order of :func:`leaves`.

    Args:
        nested: Dicts, lists and tuples in each other.
        name: The key that leads to it, where it has one.
        index: Its place in a list, where it has one.
    """
    if isinstance(nested, dict):
        for key, value in nested.items():
            yield from placed_leaves(value, key if isinstance(key, str) else name, index)
    elif isinstance(nested, tuple) and hasattr(nested, "_fields"):
        for key, value in zip(nested._fields, nested, strict=True):
            yield from placed_leaves(value, key, index)
    elif type(nested) in (list, tuple):
        for place, value in enumerate(nested):
            yield from placed_leaves(value, name, place)
    else:
        yield name, index, nested
