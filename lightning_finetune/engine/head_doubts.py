"""Whether what was taken for the head of a network is probable: by its size, and by when the network calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_finetune.engine.groups.known import is_detection, is_known, is_segmentation
from lightning_finetune.engine.layer_groups import LayerGroup, num_head_groups
from lightning_finetune.errors import first_ten

WAY_OUT = (
    "If that is wrong, say the groups yourself, from the input to the head: by `groups=[...]`, a list of name "
    "patterns, or by a method `layer_groups()` of the module."
)
COPIES = "A copy that only follows other layers needs no gradient: say so by `requires_grad_(False)`."


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


class CallOrder:
    """Watches in which order the layers of a module are first called.

    Args:
        module: Holds all of ``groups``.
        groups: From the input to the head.
    """

    def __init__(self, module: nn.Module, groups: Sequence[LayerGroup]) -> None:
        self.groups = groups
        uses = Counter(id(param) for _, param in module.named_parameters(remove_duplicate=False))
        owner = {id(p): place for place, group in enumerate(groups) for p in group.params if uses[id(p)] == 1}
        self._first: dict[int, int] = {}  # by group, when the latest of its layers was first called
        self._seen: set[int] = set()
        self._handles = []
        for layer in module.modules():
            places = {owner.get(id(param)) for param in layer.parameters(recurse=False)}
            if len(places) == 1 and (place := places.pop()) is not None:
                self._handles.append(layer.register_forward_pre_hook(partial(self._note, place)))

    def _note(self, place: int, layer: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_compiling() and id(layer) not in self._seen:  # traced, it would stay in the graph
            self._seen.add(id(layer))
            self._first[place] = len(self._seen)

    def stop(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def doubt(self) -> str | None:
        """What is improbable about the head, if layers of the body were called after all of it; else None."""
        first_new = len(self.groups) - num_head_groups(self.groups)
        head = max((call for place, call in self._first.items() if place >= first_new), default=None)
        if head is None:
            return None
        late = [self.groups[place].name for place, call in self._first.items() if place < first_new and call > head]
        if not late:
            return None
        return (
            f"{self.groups[-1].name!r} was taken for the head, but the network calls these layers after it:"
            f"{first_ten(late)}\n{WAY_OUT}"
        )
