"""Whether what was taken for the head of a network is probable: by its size, and by when the network calls it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_finetune.engine.groups.said import is_detection, is_known, is_segmentation
from lightning_finetune.engine.layer_groups import LayerGroup, num_head_groups
from lightning_finetune.errors import first_ten

WAY_OUT = (
    "If that is wrong, say the groups yourself, from the input to the head: by `groups=[...]`, a list of name "
    "patterns, or by a method `layer_groups()` of the module."
)
COPIES = "A copy that only follows other layers needs no gradient: say so by `requires_grad_(False)`."


def head_doubts(module: nn.Module, groups: Sequence[LayerGroup]) -> Generator[str | None]:
    """What is improbable about the head: asked before the first step, before its backward pass, and after that.

    Until the second time it watches in which order the layers are first called.

    Args:
        module: Holds all of ``groups``.
        groups: From the input to the head.
    """
    seen: set[int] = set()
    latest: dict[int, int] = {}  # by group, when the last of its layers was first called

    def note(place: int, layer: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_compiling() and id(layer) not in seen:  # traced, it would stay in the graph
            seen.add(id(layer))
            latest[place] = len(seen)

    handles = [layer.register_forward_pre_hook(partial(note, place)) for layer, place in _placed(module, groups)]
    try:
        yield doubt_by_size(module, groups)
    finally:
        for handle in handles:
            handle.remove()
    yield _doubt_by_calls(groups, latest)
    yield doubt_by_gradients(groups)


def _placed(module: nn.Module, groups: Sequence[LayerGroup]) -> Iterator[tuple[nn.Module, int]]:
    """The layers that hold parameters of one group alone, with its place; tied ones say nothing of it."""
    uses = Counter(id(param) for _, param in module.named_parameters(remove_duplicate=False))
    owner = {id(p): place for place, group in enumerate(groups) for p in group.params if uses[id(p)] == 1}
    for layer in module.modules():
        places = {owner.get(id(param)) for param in layer.parameters(recurse=False)}
        if len(places) == 1 and (place := places.pop()) is not None:
            yield layer, place


def _doubt_by_calls(groups: Sequence[LayerGroup], latest: Mapping[int, int]) -> str | None:
    """What is improbable about the head, if layers of the body were called after all of it; else None."""
    first_new = len(groups) - num_head_groups(groups)
    head = max((call for place, call in latest.items() if place >= first_new), default=math.inf)
    late = [groups[place].name for place, call in latest.items() if place < first_new and call > head]
    if not late:
        return None
    return (
        f"{groups[-1].name!r} was taken for the head, but the network calls these layers after it:"
        f"{first_ten(late)}\n{WAY_OUT}"
    )


def doubt_by_size(module: nn.Module, groups: Sequence[LayerGroup]) -> str | None:
    """What is improbable about a head that holds most parameters, unless the network says itself that it is one.

    Args:
        module: Holds all of ``groups``.
        groups: From the input to the head.
    """
    new = groups[-num_head_groups(groups) :]
    share = sum(group.num_params for group in new) / sum(group.num_params for group in groups)
    if len(groups) == len(new) or share <= 0.5 or _is_said(module, new):
        return None
    names = " and ".join(repr(group.name) for group in new)
    why = "it comes last" if groups[-1].role == "last" else "of its name"
    return f"{names} was taken for the head, because {why}, and holds {share:.0%} of the parameters. {WAY_OUT}"


def _is_said(module: nn.Module, new: Sequence[LayerGroup]) -> bool:
    """Whether a network of timm or of smp, or a detector, holds the head, and so says what it is."""
    head = {id(param) for group in new for param in group.params}
    says = [part for part in module.modules() if is_known(part) or is_segmentation(part) or is_detection(part)]
    return any(head <= set(map(id, part.parameters())) for part in says)


def doubt_by_gradients(groups: Sequence[LayerGroup]) -> str | None:
    """What is improbable about a head that trains, and that got no gradient of the first loss; else None.

    Args:
        groups: From the input to the head, after the backward pass.
    """
    new = groups[-num_head_groups(groups) :]
    params = [param for group in new for param in group.params if param.requires_grad]
    if not params or any(param.grad is not None for param in params):
        return None
    return f"{groups[-1].name!r} was taken for the head, but the loss does not depend on it. {COPIES} {WAY_OUT}"
