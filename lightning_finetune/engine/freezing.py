"""Freezing layer groups: no gradient, no optimizer step, and norm layers that no longer change.

A frozen norm layer is put in ``eval`` mode, so that its running statistics stay bit-identical and it computes the same
in training and evaluation. Lightning's ``BaseFinetuning`` clears ``track_running_stats`` instead, which normalises by
the batch in training and by the old statistics in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.nn import Parameter

from lightning_finetune.engine.layer_groups import is_norm


def set_trainable(layers: Sequence[Sequence[Parameter]], trained: int, always: Iterable[Parameter] = ()) -> bool:
    """Let the last ``trained`` of ``layers`` have gradients, and the others none.

    Gradients of what is frozen are dropped, so that no optimizer moves it by a stale one.

    Args:
        layers: Parameters of each layer group, from the input to the head.
        trained: How many groups train, counted from the head.
        always: Parameters that train in any case (norm layers, as fastai has it).

    Returns:
        Whether anything changed, and so must be registered anew with a distributed wrapper.
    """
    kept = {id(param) for param in always}
    changed = False
    for index, params in enumerate(layers):
        for param in params:
            needs_grad = index >= len(layers) - trained or id(param) in kept
            changed |= param.requires_grad != needs_grad
            param.requires_grad_(needs_grad)
            if not needs_grad:
                param.grad = None
    return changed


@contextmanager
def all_trainable(layers: Sequence[Sequence[Parameter]]) -> Iterator[bool]:
    """Let all parameters have gradients for a while; gives whether any had none."""
    before = [(param, param.requires_grad) for params in layers for param in params]
    changed = set_trainable(layers, len(layers))
    try:
        yield changed
    finally:
        for param, needs_grad in before:
            param.requires_grad_(needs_grad)


def norm_params(module: nn.Module) -> list[Parameter]:
    """Parameters of all norm layers of ``module``."""
    return [param for layer in module.modules() if is_norm(layer) for param in layer.parameters(recurse=False)]


def frozen_norms(module: nn.Module, layers: Sequence[Sequence[Parameter]], trained: int) -> list[nn.Module]:
    """Norm layers of the groups that do not train, and those without parameters that lie among them.

    Args:
        module: Holds all of ``layers``.
        layers: Parameters of each layer group, from the input to the head.
        trained: How many groups train, counted from the head.
    """
    frozen = {id(param) for params in layers[: len(layers) - trained] for param in params}
    return [layer for layer in module.modules() if is_norm(layer) and _belongs(layer, module, frozen)]


def hold_in_eval(layers: Iterable[nn.Module]) -> None:
    """Put ``layers`` in ``eval`` mode and keep them there, whoever calls ``train()`` on a module around them."""
    for layer in layers:
        layer.eval()
        vars(layer)["train"] = partial(_stay, layer)


def release(module: nn.Module) -> None:
    """Put the layers of ``module`` that :func:`hold_in_eval` holds back in ``train`` mode."""
    for layer in module.modules():
        if vars(layer).pop("train", None) is not None:
            layer.train()


def _stay(layer: nn.Module, mode: bool = True) -> nn.Module:
    """Stands in for ``layer.train``."""
    return layer


def _belongs(layer: nn.Module, module: nn.Module, frozen: set[int]) -> bool:
    """A norm layer without parameters of its own goes with the smallest module around it that has some."""
    own = list(layer.parameters(recurse=False)) or _neighbours(layer, module)
    return bool(own) and all(id(param) in frozen for param in own)


def _neighbours(layer: nn.Module, module: nn.Module) -> list[Parameter]:
    around = [outer for outer in module.modules() if any(inner is layer for inner in outer.modules())]
    sized = [list(outer.parameters()) for outer in around]
    return min((params for params in sized if params), key=len, default=[])
