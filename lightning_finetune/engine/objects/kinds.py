"""What kinds of objects there are: with state or without, ours to put back or somebody else's."""

from __future__ import annotations

import functools
import mmap
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim import Optimizer

ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), slice, range, torch.dtype, torch.device})
"""Classes of values that never change and lead nowhere."""

FIXED = (type, ModuleType, BuiltinFunctionType, PurePath, Enum)
"""Classes of objects that have no state, or one that belongs to the whole process."""

_OUTSIDE = frozenset(
    {
        *("_io", "_thread", "asyncio", "concurrent", "io", "logging", "multiprocessing", "queue", "selectors"),
        *("socket", "ssl", "subprocess", "tempfile", "threading"),
        *("aim", "clearml", "comet_ml", "mlflow", "neptune", "tensorboard", "tensorboardX"),
        *("torch.utils.tensorboard", "wandb"),
        *("lightning", "lightning_fabric", "pytorch_lightning", "lightning_finetune.callbacks"),
        *("lightning_finetune.engine", "lightning_finetune.run"),
        "lightning_finetune.data.batches.stream_loader",  # which lends copies, and is not disturbed
        *("torch._dynamo", "torch._functorch", "torch._inductor", "torch.cuda", "torch.distributed"),
        *("torch.fx", "torch.jit", "torch.multiprocessing", "torch.utils.data.dataloader"),
    }
)
"""Modules whose objects are tied to what no copy holds (threads, processes, files, services), or that make the run."""


def attributes_of(owner: Any) -> dict[str, Any] | None:
    """The dict of an object's attributes, where it has one."""
    try:
        attributes = owner.__dict__
    except (AttributeError, ReferenceError):  # it has none; a weak proxy of what is gone
        return None
    return attributes if type(attributes) is dict else None


@functools.cache
def is_outside(module: str) -> bool:
    """Whether what a module defines is not to be put back."""
    parts = module.split(".")
    return any(".".join(parts[:count]) in _OUTSIDE for count in range(1, len(parts) + 1))


@functools.cache
def slots_of(kind: type) -> list[str]:
    """Names of attributes that are kept in slots."""
    names = []
    for owner in kind.__mro__:
        own = vars(owner).get("__slots__", ())
        for name in [own] if isinstance(own, str) else own:
            hidden = name.startswith("__") and not name.endswith("__")
            names.append(f"_{owner.__name__.lstrip('_')}{name}" if hidden else name)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def is_stateful(kind: type) -> bool:
    """Whether it says its state itself; that of modules and optimizers is all in their attributes."""
    has_both = hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict")
    return has_both and not issubclass(kind, (nn.Module, Optimizer))


def is_mapped(values: npt.NDArray[Any]) -> bool:
    """Whether an array is a view of a file, or of memory that processes share."""
    base: Any = values
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)
