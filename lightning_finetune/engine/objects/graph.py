"""All that can be reached from some objects, kept as it is and put back."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_finetune.engine.objects import state
from lightning_finetune.engine.objects.kinds import (
    ATOMS,
    FIXED,
    attributes_of,
    is_mapped,
    is_outside,
    is_stateful,
    slots_of,
)
from lightning_finetune.engine.objects.state import Restore


class ObjectGraph:
    """What objects were like when they were kept.

    From an object it goes to its attributes, items, closures and the targets of weak references, each once; it stops at
    the Trainer, loggers, threads, processes and files.
    """

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._iterators: dict[int, Any] = {}
        self._restores: list[Restore] = []
        self._last: list[Restore] = []
        self._sized: list[tuple[int, Callable[[], Restore]]] = []
        self._visits: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
            (Tensor, self._visit_tensor),
            (np.ndarray, self._visit_array),
            (np.random.Generator, lambda obj: [obj.bit_generator]),
            (dict, self._visit_dict),
            (state.SEQUENCES, self._visit_sequence),
            ((tuple, frozenset), _ahead),
            (CellType, self._visit_cell),
            (weakref.ReferenceType, lambda obj: [obj()]),
            (MethodType, lambda obj: [obj.__self__, obj.__func__]),
            (FunctionType, _carried),
            (functools.partial, lambda obj: [obj.func, obj.args, obj.keywords]),
            (object, self._visit_generator),
        )

    def keep(self, *roots: object, at_most: int | None = None) -> None:
        """Keep ``roots`` and all that they lead to, but what was kept before.

        Args:
            roots: Any objects.
            at_most: Bytes of tensors and arrays to keep, the smallest first; None: all of them.
        """
        ahead = list(roots)
        while ahead:  # not by recursion, as objects may be nested deeply
            obj = ahead.pop()
            kind = type(obj)
            if kind in ATOMS or id(obj) in self._seen or issubclass(kind, FIXED):
                continue
            self._seen[id(obj)] = obj
            ahead.extend(self._visit(obj, kind))
        room = at_most
        for nbytes, keep in sorted(self._sized, key=lambda sized: sized[0]):
            if room is None or nbytes <= room:
                self._restores.append(keep())
                room = None if room is None else room - nbytes
        self._sized.clear()

    def put_back(self) -> None:
        """Give every object the content that it had."""
        for restore in (*self._restores, *self._last):
            restore()

    def _visit(self, obj: Any, kind: type) -> list[Any]:
        """Keep one object; what it leads to."""
        visit = next(visit for kinds, visit in self._visits if issubclass(kind, kinds))
        leads_to = list(visit(obj))
        if is_outside(str(kind.__module__)) and not issubclass(kind, (nn.Module, DataLoader)):
            return leads_to
        leads_to.extend(self._visit_slots(obj, kind))
        attributes = attributes_of(obj)
        if attributes is not None:
            leads_to.extend(self._visit_dict(attributes))
            if issubclass(kind, DataLoader):  # it lends one iterator, with its workers, to whoever iterates
                attributes["_iterator"] = None
        if is_stateful(kind) and not issubclass(kind, DataLoader):  # whose state is that of its iterator
            self._last.append(state.of_stateful(obj))
        return leads_to

    def _visit_tensor(self, obj: Tensor) -> Iterable[Any]:
        self._sized.append((obj.nbytes, lambda: state.of_tensor(obj)))
        return [obj.grad] if obj.is_leaf else []

    def _visit_array(self, obj: npt.NDArray[Any]) -> Iterable[Any]:
        if obj.flags.writeable and not is_mapped(obj):
            self._sized.append((obj.nbytes, lambda: state.of_array(obj)))
        return obj.ravel().tolist() if obj.dtype.hasobject else []

    def _visit_dict(self, obj: dict[Any, Any]) -> Iterable[Any]:
        values = self._contents(obj.values())
        self._restores.append(state.of_mapping(obj, values))
        return chain(_ahead(obj.keys()), _ahead(values))

    def _visit_sequence(self, obj: Any) -> Iterable[Any]:
        values = self._contents(obj)
        self._restores.append(state.of_sequence(obj, values))
        return _ahead(values)

    def _visit_cell(self, obj: CellType) -> Iterable[Any]:
        with suppress(ValueError):  # it is empty
            values = self._contents([obj.cell_contents])
            self._restores.append(functools.partial(setattr, obj, "cell_contents", values[0]))
            return values
        return []

    def _visit_generator(self, obj: Any) -> Iterable[Any]:
        restore = state.of_generator(obj)
        if restore is not None:
            self._restores.append(restore)
        return []

    def _visit_slots(self, obj: Any, kind: type) -> Iterable[Any]:
        names = slots_of(kind)
        there = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
        if names:
            values = dict(zip(there, self._contents(there.values()), strict=True))
            self._restores.append(state.of_slots(obj, names, values))
        return there.values()

    def _contents(self, values: Collection[Any]) -> list[Any]:
        """``values``, with a copy in the place of each iterator, which is used up and cannot be set back."""
        if any(map(is_builtin_iterator, set(map(type, values)))):
            return [self._unused(value) for value in values]
        return list(values)

    def _unused(self, value: Any) -> Any:
        if is_builtin_iterator(type(value)) and id(value) not in self._iterators:
            try:
                copied = copied_iterator(value)
            except TypeError:
                copied = value
            self._iterators[id(value)] = copied
        return self._iterators.get(id(value), value)


def _ahead(values: Collection[Any]) -> Collection[Any]:
    """Those of ``values`` that may lead on: none of a long list of numbers, names, or tuples of them."""
    kinds = set(map(type, values))
    if kinds <= ATOMS or (kinds == {tuple} and set(map(type, chain.from_iterable(values))) <= ATOMS):
        return ()
    return values


def _carried(function: FunctionType) -> Iterable[Any]:
    if is_outside(str(function.__module__)):
        return []
    return [function.__closure__, function.__defaults__, function.__kwdefaults__]


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
