"""Freezing layer groups: no gradient, no optimizer step, and norm layers that no longer change.

What the author of a module froze, or kept out of the optimizer, is in no layer group, and nothing here touches it.
A frozen norm layer is put in ``eval`` mode, so that its running statistics stay bit-identical and it computes the same
in training and evaluation. Lightning's ``BaseFinetuning`` clears ``track_running_stats`` instead, which normalises by
the batch in training and by the old statistics in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import Parameter

from lightning_finetune.engine.norms import is_norm


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


def named_parts(module: nn.Module, params: Iterable[Parameter], most: int = 5) -> str:
    """``params`` in a few words: the outermost modules that hold nothing else, else their own names.

    Args:
        module: Holds them.
        params: Some of its parameters.
        most: How many names.
    """
    params = list(params)
    names = outermost(module, params)
    shown = ", ".join(names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{shown}{more} ({len(params)} tensors)"


def outermost(module: nn.Module, params: Iterable[Parameter]) -> list[str]:
    """Names of the outermost modules of ``module`` that hold none but ``params``, and of parameters beside them."""
    return list(_outermost(module, "", {id(param) for param in params}, set()))


def _outermost(module: nn.Module, name: str, ids: set[int], said: set[int]) -> Iterator[str]:
    inside = {id(param) for param in module.parameters()} - said
    if inside and inside <= ids:
        said |= inside
        yield name or type(module).__name__
    elif inside & ids:
        for own, param in module.named_parameters(recurse=False):
            if id(param) in ids - said:
                said.add(id(param))
                yield f"{name}.{own}".strip(".")
        for own, child in module.named_children():
            yield from _outermost(child, f"{name}.{own}".strip("."), ids, said)


def norm_params(module: nn.Module) -> list[Parameter]:
    """Parameters of all norm layers of ``module``."""
    return [param for layer in module.modules() if is_norm(layer) for param in layer.parameters(recurse=False)]


def frozen_norms(
    module: nn.Module,
    layers: Sequence[Sequence[Parameter]],
    trained: int,
    *,
    never: Iterable[Parameter] = (),
    theirs: Iterable[Parameter] = (),
) -> list[nn.Module]:
    """Norm layers of the groups that do not train, and those without parameters that lie among them.

    Args:
        module: Holds all of ``layers``.
        layers: Parameters of each layer group, from the input to the head.
        trained: How many groups train, counted from the head.
        never: Parameters that never train, because no optimizer holds them; their norm layers are frozen too.
        theirs: Parameters that the module's author froze; the mode of their norm layers is the author's affair.
    """
    frozen = {id(param) for params in (*layers[: len(layers) - trained], never) for param in params}
    left = {id(param) for param in theirs}
    return [layer for layer in module.modules() if is_norm(layer) and _belongs(layer, module, frozen, left)]


def learned_norms(module: nn.Module, theirs: Iterable[Parameter] = ()) -> list[str]:
    """Names of the norm layers of ``module`` whose running statistics are not those of a new layer.

    They come from another training, and the batches of a short run on few images estimate worse ones
    (``docs/recipe.md``).

    Args:
        module: Any module.
        theirs: Parameters that the module's author froze; the mode of their norm layers is the author's affair.
    """
    left = {id(param) for param in theirs}
    learned = [(name, layer) for name, layer in module.named_modules() if is_norm(layer) and not _is_fresh(layer)]
    return [name for name, layer in learned if not any(id(param) in left for param in layer.parameters(recurse=False))]


def _is_fresh(layer: nn.Module) -> bool:
    """Whether a norm layer has no running statistics, or those that it began with."""
    mean, var = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return True
    return bool((mean == 0).all() and (var == 1).all())


def hold_in_eval(layers: Iterable[nn.Module]) -> None:
    """Put ``layers`` in ``eval`` mode and keep them there, whoever calls ``train()`` on a module around them."""
    for layer in layers:
        held = _Held(layer)
        layer.eval()
        vars(layer)["train"] = held


def release(module: nn.Module) -> None:
    """Put the layers of ``module`` that :func:`hold_in_eval` holds back in the mode that they had before."""
    for layer in module.modules():
        held = vars(layer).get("train")
        if isinstance(held, _Held):
            held.release()


class _Held:
    """Stands in for a layer's ``train``."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.training, self.own = layer, layer.training, vars(layer).get("train")

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.layer

    def release(self) -> None:
        del vars(self.layer)["train"]
        if self.own is not None:
            vars(self.layer)["train"] = self.own
        self.layer.train(self.training)


def _belongs(layer: nn.Module, module: nn.Module, frozen: set[int], left: set[int]) -> bool:
    """A norm layer without parameters of its own goes with the smallest module around it that has some."""
    around = list(layer.parameters(recurse=False)) or _neighbours(layer, module)
    ours = [id(param) for param in around if id(param) not in left]
    return bool(ours) and all(key in frozen for key in ours)


def _neighbours(layer: nn.Module, module: nn.Module) -> list[Parameter]:
    around = [outer for outer in module.modules() if any(inner is layer for inner in outer.modules())]
    sized = [list(outer.parameters()) for outer in around]
    return min((params for params in sized if params), key=len, default=[])
