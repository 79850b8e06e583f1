"""The default optimizer, and what an optimizer must not contradict."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch.optim import AdamW, Optimizer

from lightning_finetune.errors import FinetuneError

OptimizerCallable: TypeAlias = Callable[[Iterable[Any]], Optimizer]


def fastai_adam(params: Iterable[Any]) -> Optimizer:
    """Adam as the lessons use it: decoupled weight decay, ``betas`` (0.9, 0.99), ``eps`` 1e-5.

    Args:
        params: Parameters or parameter groups.
    """
    return AdamW(params, betas=(0.9, 0.99), eps=1e-5)


def build_optimizer(
    build: OptimizerCallable, groups: list[dict[str, Any]], *, lr: float, weight_decay: float
) -> Optimizer:
    """The optimizer over ``groups``, which carry the task's ``lr`` and ``weight_decay``.

    On the CPU it steps by torch's fused kernels, where it has some and was not told otherwise.

    Raises:
        FinetuneError: ``build`` sets another learning rate or weight decay, which the groups would silently override.
    """
    optimizer = build(groups)
    signature = inspect.signature(type(optimizer)).parameters
    for name, wanted in (("lr", lr), ("weight_decay", weight_decay)):
        own = optimizer.defaults.get(name)
        if name in signature and own not in (wanted, signature[name].default):
            raise FinetuneError(
                f"Expected `{name}` once, got {own} in `optimizer` and {wanted} in the task. "
                f"Give it to the task ({name}={own}) and leave it out of `optimizer`."
            )
    _fuse(optimizer)
    return optimizer


def _fuse(optimizer: Optimizer) -> None:
    """A quarter of the time of a step on 2 cores (``benchmarks/parts.py``).

    Set in the groups and not by the constructor, for which Lightning would refuse to clip gradients in mixed precision.
    """
    for group in optimizer.param_groups:
        on_cpu = all(param.device.type == "cpu" and param.is_floating_point() for param in group["params"])
        if on_cpu and group.get("fused", False) is None and not group.get("foreach"):
            group["fused"] = True
