"""How one object is, whatever its kind, and how it is put back: the object itself stays, its content returns.

Others may hold the object too, so that nothing is replaced but what has no content that could be set: an iterator.
"""

from __future__ import annotations

import array
import copy
import operator
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_finetune.engine.nested import map_nested

Restore: TypeAlias = Callable[[], None]
"""Puts one object back."""


def of_tensor(tensor: Tensor) -> Restore:
    """Its numbers, the memory it looks at, its gradient and whether it wants one."""
    seen = tensor.data  # shares the memory, and not the count of versions that autograd looks at
    once = _without_repeats(seen)
    kept = once.clone()
    leaf = tensor.is_leaf
    grad, wants = (tensor.grad, tensor.requires_grad) if leaf else (None, False)

    @torch.no_grad()
    def restore() -> None:
        if not _same_memory(tensor, seen):
            tensor.data = seen
        with torch.inference_mode(once.is_inference()):
            once.copy_(kept)
        if leaf:
            tensor.requires_grad_(wants)
            tensor.grad = grad

    return restore


def _same_memory(one: Tensor, other: Tensor) -> bool:
    if one.layout != torch.strided:
        return one.shape == other.shape
    same_form = (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    return same_form and one.data_ptr() == other.data_ptr()


def _without_repeats(tensor: Tensor) -> Tensor:
    """Each number of an expanded tensor once, as it could not be written to otherwise."""
    if tensor.layout == torch.strided:
        for dim, (length, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if step == 0 and length > 1:
                tensor = tensor.narrow(dim, 0, 1)
    return tensor


def of_array(values: npt.NDArray[Any]) -> Restore:
    """The content of a numpy array."""
    return partial(np.copyto, values, values.copy(), casting="no")


def of_mapping(live: dict[Any, Any], values: list[Any]) -> Restore:
    """The keys of a dict of any class, in their order, and ``values`` under them."""
    keys = list(live)
    base: Any = OrderedDict if isinstance(live, OrderedDict) else dict

    def restore() -> None:
        if not (_same(live.keys(), keys) and _same(live.values(), values)):
            base.clear(live)
            base.update(live, zip(keys, values, strict=True))

    return restore


SEQUENCES = (list, deque, set, bytearray, array.array)
"""Containers that :func:`of_sequence` knows, and their subclasses."""


def of_sequence(live: Any, values: list[Any]) -> Restore:
    """``values`` as the content of a container."""
    base: Any = next(kind for kind in SEQUENCES if isinstance(live, kind))
    code = (live.typecode,) if base is array.array else ()

    def restore() -> None:
        if _same(live, values):
            return
        if base in (list, bytearray, array.array):
            base.__setitem__(live, slice(None), values if base is list else base(*code, values))
        else:
            base.clear(live)
            (base.update if base is set else base.extend)(live, values)

    return restore


def _same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Whether they hold the same objects in the same order."""
    one, other = list(one), list(other)
    return len(one) == len(other) and all(map(operator.is_, one, other))


def of_slots(owner: object, names: list[str], values: dict[str, Any]) -> Restore:
    """Attributes that are kept in slots: those of ``names`` that are in ``values``, and no others."""

    def restore() -> None:
        for name in names:
            if name in values:
                object.__setattr__(owner, name, values[name])
            elif hasattr(owner, name):
                object.__delattr__(owner, name)

    return restore


def of_generator(generator: Any) -> Restore | None:
    """The state of a generator of random numbers; None for what is none."""
    known: Any = generator  # torch and numpy type the same two methods in different ways
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        return partial(known.set_state, known.get_state())
    if isinstance(generator, np.random.BitGenerator):
        return partial(setattr, generator, "state", generator.state)
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        return partial(generator.setstate, generator.getstate())
    return None


def of_stateful(owner: Any) -> Restore:
    """What ``state_dict`` gives, given to ``load_state_dict`` where it has become another.

    Comes after all else was put back: for most, nothing is left to do then.
    """
    with suppress(Exception):  # there may be nothing to tell yet, as of a loader that has not begun
        kept = map_nested(_copied, owner.state_dict())

        def restore() -> None:
            if not _equal(owner.state_dict(), kept):
                owner.load_state_dict(kept)

        return restore
    return lambda: None


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(item, other[key]) for key, item in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
