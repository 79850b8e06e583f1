"""Parts of networks that say themselves what they are made of: by a method of their own, or as timm's models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.nn import Parameter

from lightning_finetune.engine.groups.said import own_groups


def known_parts(module: nn.Module, wanted: frozenset[int]) -> dict[str, list[Parameter]] | None:
    """The parts of ``module`` from the input to the head, if it knows them; the head is called so, or is the last.

    Args:
        module: Any module.
        wanted: Ids of the parameters to group; others may be among the parts.
    """
    if says_itself(module):
        own: Any = module
        return own_groups(own.layer_groups, module, wanted)
    return _timm(module, wanted) if is_known(module) else None


def says_itself(module: nn.Module) -> bool:
    """Whether ``module`` has a method ``layer_groups``."""
    return _has(module, "layer_groups")


def is_known(module: nn.Module) -> bool:
    """Whether ``module`` says itself what it is made of."""
    return says_itself(module) or (_has(module, "group_matcher") and hasattr(module, "pretrained_cfg"))


def is_segmentation(module: nn.Module) -> bool:
    """Whether ``module`` is made as the models of segmentation-models-pytorch are."""
    return dict(module.named_children()).keys() >= {"encoder", "decoder", "segmentation_head"}


def is_detection(module: nn.Module) -> bool:
    """Whether ``module`` is made as torchvision's detectors are: what is not their ``backbone`` is their head."""
    names = dict(module.named_children()).keys()
    return names >= {"backbone", "rpn", "roi_heads"} or names >= {"backbone", "anchor_generator", "head"}


def _has(module: nn.Module, method: str) -> bool:
    """Of its own: wrappers such as peft's pass on what the wrapped module has, whose names are others."""
    return callable(vars(module).get(method, getattr(type(module), method, None)))


def _timm(module: Any, wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    """The coarse groups that a timm model gives itself, and its classifier as the head."""
    from timm.models import group_parameters

    named = {name: param for name, param in module.named_parameters() if id(param) in wanted}
    ids: dict[str, int] = group_parameters(module, _matcher(module), reverse=True)
    head = {id(param) for part in _classifiers(module) for param in part.parameters()}
    layers: dict[int, list[str]] = {}
    last = None
    for name in sorted((name for name in ids if name in named and id(named[name]) not in head), key=ids.__getitem__):
        layers.setdefault(ids[name], []).append(name)
    for layer, names in list(layers.items()):
        if last is not None and all(named[name].ndim < 2 for name in names):
            layers[last] += layers.pop(layer)  # a final norm belongs to the layer before it
        else:
            last = layer
    parts = {_own_prefix(names, ids.keys() - set(names)): [named[name] for name in names] for names in layers.values()}
    if head & wanted:
        parts["head"] = [param for param in named.values() if id(param) in head]
    return parts


def _matcher(module: Any) -> Any:
    """Of stages where the model knows them, else of blocks."""
    try:
        return module.group_matcher(coarse=True)
    except (AssertionError, NotImplementedError):
        return module.group_matcher(coarse=False)


def _classifiers(module: Any) -> list[nn.Module]:
    """One, or the two of a distilled model, and an auxiliary one."""
    classifier = module.get_classifier() if callable(getattr(module, "get_classifier", None)) else None
    several = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    auxiliary = [child for name, child in module.named_children() if "aux" in name.split("_")]  # VOLO's
    return [part for part in (*several, *auxiliary) if isinstance(part, nn.Module)]


def _own_prefix(names: Sequence[str], others: Iterable[str]) -> str:
    """The shortest start of the first name that no parameter outside the group has, e.g. ``"blocks.3"``."""
    components = names[0].split(".")
    starts = (".".join(components[:depth]) for depth in range(1, len(components)))
    elsewhere = [f"{name}." for name in others]
    return next((start for start in starts if not any(o.startswith(f"{start}.") for o in elsewhere)), names[0])
