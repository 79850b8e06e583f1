"""Batches, loaders and whatever else lies in nested dicts, lists and tuples."""

from __future__ import annotations

import copy
from collections.abc import Callable
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
    found: list[Any] = []
    map_nested(found.append, nested)
    return found
