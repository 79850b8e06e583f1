"""Whether arguments are of the kinds that annotations say, so that a wrong one is named where it is given."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from functools import cache
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from typing_extensions import Unpack

from lightning_finetune.engine.metric_names import more_is_better
from lightning_finetune.errors import FinetuneError, did_you_mean

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    NoneType: "None",
}

_MOST = 10_000
"""Items of a list that are looked at: a million files would take seconds."""

_LISTS = (list, Sequence, Iterable, tuple)


def check_types(owner: Any, given: Mapping[str, Any], error: type[FinetuneError] = FinetuneError) -> None:
    """Check arguments before they are used; which numbers of a kind are right, each class says itself.

    Args:
        owner: The function that they are given to, or a dataclass.
        given: By name, such as its ``locals()``; what ``owner`` does not annotate is left out.
        error: To raise.

    Raises:
        FinetuneError: The first that is of another kind.
    """
    for name, kind in _hints(owner).items():
        if get_origin(kind) is Unpack:
            check_types(get_args(kind)[0], given.get(name, {}), error)
        elif name in given and not fits(given[name], kind):
            value = repr(given[name])
            shown = value if len(value) <= 80 else f"{value[:77]}..."
            hint = did_you_mean(value.strip("'"), _choices(kind))
            raise error(f"Expected the argument `{name}` to be {in_words(kind)}, got {shown}.{hint}")


def _choices(kind: Any) -> list[str]:
    """The words that are of a kind."""
    if get_origin(kind) is Literal:
        return list(map(str, get_args(kind)))
    return [choice for part in get_args(kind) for choice in _choices(part)]


def warn_unused(owner: str, given: Mapping[str, Any], unused: Mapping[str, tuple[Any, ...]], because: str) -> None:
    """Warn of arguments that were given and change nothing.

    Args:
        owner: What they were given to.
        given: By name, such as its ``locals()``.
        unused: Those that change nothing, with the values that say nothing: defaults, also those of an earlier version.
        because: Why they change nothing.
    """
    names = [name for name, silent in unused.items() if given[name] not in silent]
    if names:
        words = ", ".join(f"{name}={given[name]!r}" for name in names)
        warnings.warn(f"{owner} does not use {words}, because {because}.", stacklevel=_users_level())


def warn_of_mode(owner: str, metric: str, mode: str) -> None:
    """Warn of a metric whose lowest value counts as its best, as is the default, and whose name says the reverse.

    Args:
        owner: Who looks for the best.
        metric: Its name, such as ``"val_accuracy"``.
        mode: ``"min"`` or ``"max"``.
    """
    if mode == "min" and more_is_better(metric):
        warnings.warn(
            f"{owner} takes the lowest {metric} for the best (mode='min'). If more of it is better, give mode='max'.",
            stacklevel=_users_level(),
        )


def _users_level() -> int:
    """The ``stacklevel`` with which a warning of the caller names the user's line: the first outside of the package."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        frame, level = frame.f_back, level + 1
    return level


@cache
def _hints(owner: Any) -> dict[str, Any]:
    """The annotations that can be read at run time: what is imported for types alone is left out."""
    known = getattr(owner, "__globals__", None) or vars(sys.modules[owner.__module__])
    hints: dict[str, Any] = {}
    for name, kind in owner.__annotations__.items():
        with suppress(NameError):
            hints |= get_type_hints(SimpleNamespace(__annotations__={name: kind}), globalns=known)
    hints.pop("return", None)
    return hints


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of a kind, in the sense of whoever types it: whole numbers are numbers, lists are tuples."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind in _SIMPLE:
        return _SIMPLE[kind](value)
    plain = origin or kind
    if plain in _LISTS:
        return _is_list(value, plain, inner)
    if plain is dict or plain is Mapping:
        return isinstance(value, Mapping) and all(_each(pair, inner) for pair in value.items())
    if plain is Callable:
        return callable(value)
    return not isinstance(plain, type) or _is_of(value, plain)


def _is_of(value: Any, kind: type) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return True


def _is_list(value: Any, plain: Any, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim > 0 and plain in (Sequence, Iterable) and _is_list(value.tolist(), plain, inner)
    if isinstance(value, (str, bytes, Mapping, Set)):
        return False
    if not all(hasattr(value, name) for name in ("__len__", "__iter__", "__getitem__")):
        return plain is Iterable and isinstance(value, Iterable)  # it may be read once alone
    if plain is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and _each(value, inner)
    return not inner or all(fits(one, inner[0]) for one in islice(value, _MOST))


def _each(values: Iterable[Any], kinds: tuple[Any, ...]) -> bool:
    return not kinds or all(fits(value, kind) for value, kind in zip(values, kinds, strict=True))


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


_SIMPLE: dict[Any, Callable[[Any], bool]] = {
    int: lambda value: _is_number(value, Integral),
    float: lambda value: _is_number(value, Real),
    bool: lambda value: isinstance(value, (bool, np.bool_)) or (_is_number(value, Integral) and value in (0, 1)),
    str: lambda value: isinstance(value, str),
    Path: lambda value: isinstance(value, os.PathLike),
    NoneType: lambda value: value is None,
    Any: lambda value: True,
}


def in_words(kind: Any) -> str:
    """A kind as a sentence has it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        *most, last = dict.fromkeys(map(in_words, inner))
        return f"{', '.join(most)} or {last}" if most else last
    if origin is Literal:
        return f"one of {list(inner)}"
    if kind in _WORDS:
        return _WORDS[kind]
    plain = origin or kind
    if plain is tuple and inner and inner[-1] is not Ellipsis:
        return f"{len(inner)} values ({', '.join(map(in_words, inner))})"
    if plain in _LISTS:
        return f"a list ({in_words(inner[0])} each)" if inner else "a list"
    if plain is dict or plain is Mapping:
        return "a mapping"
    return "a function" if plain is Callable else f"of the class {getattr(plain, '__name__', plain)}"
