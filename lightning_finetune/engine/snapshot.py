"""Everything that training changes in a module, its optimizer and its data, kept in memory and put back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from lightning_finetune.engine.objects.graph import ObjectGraph

DATA_BYTES = 2**28
"""Bytes of tensors and arrays that are kept of data, the smallest first: what is larger is data, not state."""


@contextmanager
def preserved(module: nn.Module, optimizer: Optimizer, data: Iterable[object] = ()) -> Iterator[None]:
    """Put module, optimizer, data and random generators back as they were, also when the body raises.

    Kept is what can be reached from them: tensors, arrays, containers and attributes of any object, the places of
    iterators, generators of random numbers, and what ``state_dict`` says; and the global generators of torch on each
    device, of numpy and of Python. ``docs/callbacks/lr-range-test.md`` lists what is not. Costs one copy in memory; of
    data at most :data:`DATA_BYTES`.

    Args:
        module: Any module.
        optimizer: Of its parameters.
        data: Data sets, samplers, whatever else gives batches.
    """
    kept = ObjectGraph()
    kept.keep(*module.parameters(), *module.buffers(), optimizer)
    kept.keep(*data, at_most=DATA_BYTES)
    kept.keep(module)
    generators = random_state()
    try:
        yield
    finally:
        kept.put_back()
        set_random_state(generators)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each layer gets its own mode back."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def random_state() -> dict[str, Any]:
    """The states of the global generators of torch on each device, of numpy and of Python."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_random_state(states: dict[str, Any]) -> None:
    """Give the global generators the ``states`` that :func:`random_state` gave."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
