"""Ordered, named layer groups of a module, from the input to the head.

Discriminative learning rates and gradual unfreezing (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146) both speak
of groups of layers. Here a group is a set of parameters; all groups of a module together hold every parameter once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn import Parameter

from lightning_finetune.engine.groups.order import ordered_parts
from lightning_finetune.engine.groups.said import by_patterns
from lightning_finetune.errors import LayerGroupError

Role = Literal["body", "decoder", "head", "last"]
"""Of a group: ``last`` is a head that no name says is one, only its place after the last block."""

_ROLES: Mapping[str, Role] = {"decoder": "decoder", "head": "head", "loose": "last"}


@dataclass(frozen=True)
class LayerGroup:
    """One group of layers.

    Attributes:
        name: Unique among the groups of a module, e.g. ``"layer4"`` or ``"head"``.
        params: Its parameters, in the module's order.
        role: What it is in the network.
    """

    name: str
    params: tuple[Parameter, ...]
    role: Role = "body"

    @property
    def num_params(self) -> int:
        """How many numbers the group holds."""
        return sum(param.numel() for param in self.params)


def layer_groups(
    module: nn.Module, patterns: Sequence[str] | None = None, *, only: Iterable[Parameter] | None = None
) -> list[LayerGroup]:
    """The layer groups of ``module``, from the input to the head; each parameter that trains in exactly one of them.

    What its author froze (``requires_grad=False``: the base of an adapter, a teacher, a loss network) is in none.

    Taken from, in this order: ``patterns``; the module's own ``layer_groups()``, or that of the module which a
    LightningModule or ``torch.compile`` wraps; timm's ``group_matcher``; encoder stages, decoder and head of
    segmentation-models-pytorch; the blocks that any other network repeats, with embeddings at the input, a norm in the
    group of the layer before it, and all that comes after the last block in the head; the children of one that repeats
    nothing.

    Args:
        module: Any module with parameters.
        patterns: Regular expressions of parameter or module names, one per group, from the input to the head. A pattern
            must match whole components of a name: ``"layers.1"`` does not match ``"layers.10"``. Parameters that no
            pattern matches form a group ``"rest"`` before all others.
        only: The parameters to group; None: those with ``requires_grad``. ``module.parameters()`` groups all.

    Raises:
        LayerGroupError: No parameters, a pattern that matches nothing, or a parameter in two groups.
    """
    named = {name.replace("_orig_mod.", ""): param for name, param in module.named_parameters()}  # as before compiling
    if not named:
        raise LayerGroupError(f"Expected a module with parameters, got {type(module).__name__} without any.")
    kept = only if only is not None else [param for param in named.values() if param.requires_grad]
    wanted = frozenset(id(param) for param in kept)
    if not any(id(param) in wanted for param in named.values()):
        raise LayerGroupError(
            f"All parameters of {type(module).__name__} are frozen (requires_grad=False), so it has no layer groups. "
            "Leave some unfrozen, or pass unfreeze_all=True to the callback to train them all."
        )
    if patterns is not None:
        said = by_patterns(named, patterns, wanted)
        groups = [LayerGroup(name, tuple(said[name]), "head" if name == [*said][-1] else "body") for name in said]
    else:
        parts = ordered_parts(module, wanted)
        groups = [LayerGroup(part.name, part.params, _ROLES.get(part.role, "body")) for part in parts]
    return _disjoint(groups, [param for param in named.values() if id(param) in wanted])


def num_head_groups(groups: Sequence[LayerGroup]) -> int:
    """How many groups, counted from the end, are new and so trained first: the head, and a decoder right before it."""
    new = 0
    while new < len(groups) and groups[-1 - new].role != "body":
        new += 1
    has_decoder = len(groups) > 2 and groups[-2].name.rpartition(".")[2] == "decoder"
    return max(new, 2 if has_decoder else 1)


def _disjoint(groups: Iterable[LayerGroup], params: Sequence[Parameter]) -> list[LayerGroup]:
    """The groups that hold something, in the order of ``params``; names are made unique.

    A tied parameter belongs to the first group that names it, so that freezing the early layers freezes it.
    """
    order = {id(param): place for place, param in enumerate(params)}
    result: dict[str, LayerGroup] = {}
    for group in groups:
        own = {id(param): param for param in group.params if id(param) in order}
        if own:
            name = group.name if group.name not in result else f"{group.name} ({len(result)})"
            result[name] = LayerGroup(name, tuple(own[key] for key in sorted(own, key=order.__getitem__)), group.role)
            order = {key: place for key, place in order.items() if key not in own}
    return list(result.values())
