"""Layer groups as somebody says them: patterns of the user, a module's own ``layer_groups()``, or timm's models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import nn
from torch.nn import Parameter

from lightning_finetune.errors import LayerGroupError, did_you_mean, first_ten


def by_patterns(
    named: Mapping[str, Parameter], patterns: Sequence[str], wanted: frozenset[int]
) -> dict[str, list[Parameter]]:
    """Parameters by the pattern that their name matches; what none matches is ``"rest"``, before all others.

    Args:
        named: All parameters of the module.
        patterns: Regular expressions of whole components of names.
        wanted: Ids of those to group.

    Raises:
        LayerGroupError: Patterns that are none, overlap, or match nothing that trains.
    """
    if isinstance(patterns, str) or not patterns:
        raise LayerGroupError(f"Expected `groups` to be a list of name patterns, got {patterns!r}.")
    parts: dict[str, list[Parameter]] = {"rest": [], **{pattern: [] for pattern in patterns}}
    for name, param in named.items():
        hits = [pattern for pattern in patterns if _matches(pattern, name)]
        if len(hits) > 1:
            raise LayerGroupError(
                f"Parameter {name!r} matches several patterns of `groups`: {hits}. Make the patterns disjoint."
            )
        parts[hits[0] if hits else "rest"].append(param)
    for pattern in patterns:
        if not parts[pattern]:
            raise _no_match(pattern, named)
        if not any(id(param) in wanted for param in parts[pattern]):
            raise LayerGroupError(
                f"Pattern {pattern!r} of `groups` matches only frozen parameters (requires_grad=False), or those of no "
                "optimizer. Leave it out, or pass unfreeze_all=True to the callback to train what is frozen."
            )
    return parts


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.match(rf"(?:{pattern})(?:\.|$)", name) is not None
    except re.error as error:
        raise LayerGroupError(
            f"Expected every pattern of `groups` to be a regular expression, got {pattern!r}: {error}."
        ) from error


def _no_match(pattern: str, named: Iterable[str]) -> LayerGroupError:
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in named))
    return LayerGroupError(
        f"Pattern {pattern!r} of `groups` matches no parameter.{did_you_mean(pattern, modules)} "
        f"Patterns match from the start of a name, whole components only. The module has:{first_ten(modules)}"
    )


def own_groups(own: Callable[[], Any], module: nn.Module, wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    """The groups that ``module.layer_groups()`` gives: a mapping or a list of modules, parameters or both.

    Raises:
        LayerGroupError: A parameter that trains is in none, one is in two, or one is not of the module.
    """
    given = own()
    items = given.items() if isinstance(given, Mapping) else [(f"group_{i}", part) for i, part in enumerate(given)]
    parts = {str(name): params_of(part) for name, part in items}
    claimed = [id(param) for params in parts.values() for param in {id(p): p for p in params}.values()]
    names = {id(param): name for name, param in module.named_parameters()}
    uses = [id(param) for _, param in module.named_parameters(remove_duplicate=False)]
    twice = [names[key] for key in names if uses.count(key) == 1 < claimed.count(key)]  # tied ones have several uses
    missing = [name for key, name in names.items() if key in wanted - set(claimed)]
    foreign = [key for key in claimed if key not in names]
    if twice or missing or foreign:
        raise LayerGroupError(
            f"Expected {type(module).__name__}.layer_groups() to give every parameter of the module exactly once."
            + (f" In two groups:{first_ten(twice)}" if twice else "")
            + (f" In no group:{first_ten(missing)}" if missing else "")
            + (f" {len(foreign)} parameters are not of this module." if foreign else "")
        )
    return parts


def params_of(part: Any) -> list[Parameter]:
    """The parameters of a module, a parameter, something with ``params``, or a collection of these."""
    if isinstance(part, Parameter):
        return [part]
    if isinstance(part, nn.Module):
        return list(part.parameters())
    return [param for piece in getattr(part, "params", part) for param in params_of(piece)]


# -- networks that know their parts ---------------------------------------------------------------------------------


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
    classifier = None
    with suppress(AttributeError):  # other models have none, and some of timm's do not expect to have lost it
        classifier = module.get_classifier()
    several = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    auxiliary = [child for name, child in module.named_children() if "aux" in name.split("_")]  # VOLO's
    return [part for part in (*several, *auxiliary) if isinstance(part, nn.Module)]


def _own_prefix(names: Sequence[str], others: Iterable[str]) -> str:
    """The shortest start of the first name that no parameter outside the group has, e.g. ``"blocks.3"``."""
    components = names[0].split(".")
    starts = (".".join(components[:depth]) for depth in range(1, len(components)))
    elsewhere = [f"{name}." for name in others]
    return next((start for start in starts if not any(o.startswith(f"{start}.") for o in elsewhere)), names[0])
