"""Everything that training changes in a module and its optimizer, kept in memory and put back bit for bit."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_LEAVES = (bool, int, float, complex, str, bytes, type(None), Tensor, np.ndarray, np.generic)


@contextmanager
def preserved(module: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Put module, optimizer and random generators back as they were, also when the body raises.

    Kept are parameters, gradients, buffers, modes, and attributes made of plain Python values and tensors (counters,
    lists, the states of metrics); the optimizer's state and hyper-parameters; the global generators of torch on each
    device, of numpy and of Python. Costs one copy of them in memory.

    Args:
        module: Any module.
        optimizer: Of its parameters.
    """
    tensors = _Tensors(module)
    attributes = [_Attributes(part) for part in module.modules()]
    state = {key: copy.deepcopy(value) for key, value in optimizer.state.items()}
    hypers = [copy.deepcopy({k: v for k, v in g.items() if k != "params"}) for g in optimizer.param_groups]
    generators = _generators()
    try:
        yield
    finally:
        tensors.restore()
        for part in attributes:
            part.restore()
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, kept in zip(optimizer.param_groups, hypers, strict=True):
            group.update(kept)
        _set_generators(generators)


class _Tensors:
    """Parameters, their gradients, and buffers; values are copied back in place, so that every alias sees them."""

    def __init__(self, module: nn.Module) -> None:
        self.values = [(tensor, tensor.detach().clone()) for tensor in [*module.parameters(), *module.buffers()]]
        self.grads = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in module.parameters()]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in self.values:
            tensor.copy_(value)
        for param, grad, kept in self.grads:
            param.grad = grad
            if grad is not None and kept is not None:
                grad.copy_(kept)


class _Attributes:
    """A module's own attributes that are plain; those that hold anything else are not ours to copy."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.names = set(vars(part))
        own = {name: value for name, value in vars(part).items() if name not in _INTERNAL and _is_plain(value)}
        self.kept = {name: (value, _copy(value)) for name, value in own.items()}

    def restore(self) -> None:
        for name in [name for name, value in vars(self.part).items() if name not in self.names and _is_plain(value)]:
            del vars(self.part)[name]
        for name, (live, value) in self.kept.items():
            vars(self.part)[name] = _put_back(live, value)


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return isinstance(value, _LEAVES) and not isinstance(value, Parameter)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if type(value) in (list, tuple, deque):
        return type(value)(_copy(item) for item in value)
    return copy.deepcopy(value)


def _put_back(live: Any, value: Any) -> Any:
    """The object that was there, with the content it had: someone else may hold it too."""
    if isinstance(live, Tensor):
        with torch.no_grad():
            return live.copy_(value) if live.is_leaf and live.shape == value.shape else value
    if isinstance(live, MutableMapping):
        live.clear()
        live.update(value)
        return live
    if isinstance(live, (MutableSequence, MutableSet)):
        live.clear()
        (live.update if isinstance(live, set) else live.extend)(value)  # type: ignore[union-attr]
        return live
    return value


def _generators() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def _set_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
