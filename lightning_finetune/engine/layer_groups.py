"""Ordered, named layer groups of a module, from the input to the head.

Discriminative learning rates and gradual unfreezing (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146) both speak
of groups of layers. Here a group is a set of parameters; all groups of a module together hold every parameter once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import Parameter

from lightning_finetune.errors import LayerGroupError, did_you_mean, first_ten

MIN_GROUPS = 3
"""What the lessons split a network into, and so the least that a known backbone gives."""

_HEAD_NAMES = frozenset({"head", "heads", "head_dist", "classifier", "fc", "last_linear", "segmentation_head"})
_NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)

Part = nn.Module | Parameter | Iterable[nn.Module | Parameter]


@dataclass(frozen=True)
class LayerGroup:
    """One group of layers.

    Attributes:
        name: Unique among the groups of a module, e.g. ``"layer4"`` or ``"head"``.
        params: Its parameters, in the module's order.
    """

    name: str
    params: tuple[Parameter, ...]

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
    segmentation-models-pytorch; the children of any other module.

    Args:
        module: Any module with parameters.
        patterns: Regular expressions of parameter or module names, one a group, from the input to the head. A pattern
            must match whole components of a name: ``"layers.1"`` does not match ``"layers.10"``. Parameters that no
            pattern matches form a group ``"rest"`` before all others.
        only: The parameters to group; None: those with ``requires_grad``. ``module.parameters()`` groups all.

    Raises:
        LayerGroupError: No parameters, a pattern that matches nothing, or a parameter in two groups.
    """
    named = {_plain(name): param for name, param in module.named_parameters()}
    if not named:
        raise LayerGroupError(f"Expected a module with parameters, got {type(module).__name__} without any.")
    kept = only if only is not None else [param for param in named.values() if param.requires_grad]
    wanted = frozenset(id(param) for param in kept)
    ours = {name: param for name, param in named.items() if id(param) in wanted}
    if not ours:
        raise LayerGroupError(
            f"All parameters of {type(module).__name__} are frozen (requires_grad=False), so it has no layer groups. "
            "Leave some unfrozen, or pass unfreeze_all=True to the callback to train them all."
        )
    parts = _merge_unnamed(_split(module, wanted), ours) if patterns is None else _by_patterns(named, patterns, wanted)
    order = {id(param): place for place, param in enumerate(ours.values())}
    groups = [LayerGroup(name, _unique(params, order)) for name, params in _first_place(parts).items()]
    return [group for group in groups if group.params]


def num_head_groups(groups: Sequence[LayerGroup]) -> int:
    """How many groups, counted from the end, are new and so trained first: the head, and a decoder right before it."""
    has_decoder = len(groups) > 2 and groups[-2].name.rpartition(".")[2] == "decoder"
    return 2 if has_decoder else 1


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` normalises: one of torch's norm layers, or any layer that keeps a running mean."""
    buffers = {name for name, _ in module.named_buffers(recurse=False)}
    return isinstance(module, _NORM_TYPES) or "running_mean" in buffers or _is_custom_norm(module)


def _is_custom_norm(module: nn.Module) -> bool:
    """Norm layers of other packages derive from none of torch's, but are leaves with vectors and say what they are."""
    own = list(module.parameters(recurse=False))
    is_leaf = not any(True for _ in module.children())
    return is_leaf and bool(own) and all(p.ndim <= 1 for p in own) and "norm" in type(module).__name__.lower()


def _plain(name: str) -> str:
    """A parameter's name as its author knows it, without the wrapper that ``torch.compile`` adds."""
    return name.replace("_orig_mod.", "")


def _unique(params: Iterable[Parameter], order: Mapping[int, int]) -> tuple[Parameter, ...]:
    found = {id(param): param for param in params}
    return tuple(found[key] for key in sorted(found, key=order.__getitem__))


def _first_place(parts: Mapping[str, Sequence[Parameter]]) -> dict[str, list[Parameter]]:
    """A tied parameter belongs to the first group that names it, so that freezing the early layers freezes it."""
    seen: set[int] = set()
    result: dict[str, list[Parameter]] = {}
    for name, params in parts.items():
        result[name] = [param for param in params if id(param) not in seen]
        seen.update(id(param) for param in params)
    return result


# -- patterns of the user ----------------------------------------------------------------------------------------------


def _by_patterns(
    named: Mapping[str, Parameter], patterns: Sequence[str], wanted: frozenset[int]
) -> dict[str, list[Parameter]]:
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
        if not _among(parts[pattern], wanted):
            raise LayerGroupError(
                f"Pattern {pattern!r} of `groups` matches only frozen parameters (requires_grad=False), or those of no "
                "optimizer. Leave it out, or pass unfreeze_all=True to the callback to train what is frozen."
            )
    return {name: _among(params, wanted) for name, params in parts.items()}


def _among(params: Iterable[Parameter], wanted: frozenset[int]) -> list[Parameter]:
    return [param for param in params if id(param) in wanted]


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


# -- the module's own word ---------------------------------------------------------------------------------------------


def _own(own: Callable[[], Any], module: nn.Module, wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    given = own()
    items = given.items() if isinstance(given, Mapping) else [(f"group_{i}", part) for i, part in enumerate(given)]
    parts = {str(name): _params_of(part) for name, part in items}
    owner = type(module).__name__
    claimed = [id(param) for params in parts.values() for param in {id(p): p for p in params}.values()]
    names = {id(param): name for name, param in module.named_parameters()}
    uses = [id(param) for _, param in module.named_parameters(remove_duplicate=False)]
    twice = [names[key] for key in names if uses.count(key) == 1 < claimed.count(key)]  # tied ones have several uses
    missing = [name for key, name in names.items() if key in wanted - set(claimed)]
    foreign = [key for key in claimed if key not in names]
    if twice or missing or foreign:
        raise LayerGroupError(
            f"Expected {owner}.layer_groups() to give every parameter of the module exactly once."
            + (f" In two groups:{first_ten(twice)}" if twice else "")
            + (f" In no group:{first_ten(missing)}" if missing else "")
            + (f" {len(foreign)} parameters are not of this module." if foreign else "")
        )
    return {name: _among(params, wanted) for name, params in parts.items()}


def _params_of(part: Part | LayerGroup) -> list[Parameter]:
    if isinstance(part, LayerGroup):
        return list(part.params)
    if isinstance(part, Parameter):
        return [part]
    if isinstance(part, nn.Module):
        return list(part.parameters())
    return [param for piece in part for param in _params_of(piece)]


# -- known families, and any module ------------------------------------------------------------------------------------


def _split(module: nn.Module, wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    """Parts of ``module`` by what it is known to be; expands the input side until there are at least three."""
    if type(module).__name__ == "OptimizedModule":  # of `torch.compile`
        module = next(module.children())
    if callable(own := getattr(module, "layer_groups", None)):
        return _own(own, module, wanted)
    if callable(getattr(module, "group_matcher", None)) and hasattr(module, "pretrained_cfg"):
        return _timm(module, wanted)
    if all(hasattr(module, name) for name in ("encoder", "decoder", "segmentation_head")):
        return _segmentation(module, wanted)
    children = _ordered_children(module, wanted)
    while len(children) == 1 and not isinstance(next(iter(children.values())), Parameter):
        (only,) = children.values()
        if _is_leaf(only):
            break
        return _split(only, wanted)
    return _expand(children, wanted)


def _is_leaf(part: nn.Module | Parameter) -> bool:
    return isinstance(part, Parameter) or not any(True for _ in part.children())


def _ordered_children(module: nn.Module, wanted: frozenset[int]) -> dict[str, nn.Module]:
    """Children with parameters; those named as heads last, whatever the order in which they were registered."""
    children = {name: child for name, child in module.named_children() if _among(child.parameters(), wanted)}
    heads = {name: child for name, child in children.items() if name in _HEAD_NAMES}
    return {**{name: child for name, child in children.items() if name not in heads}, **heads}


def _expand(children: Mapping[str, nn.Module], wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    parts = _with_norms_merged(children, wanted)
    for name in children if len(parts) < MIN_GROUPS else ():
        if name in parts and not _is_leaf(children[name]):
            inner = {f"{name}.{part}": params for part, params in _split(children[name], wanted).items()}
            parts = {
                key: params
                for old, kept in parts.items()
                for key, params in (inner if old == name else {old: kept}).items()
            }
            break
    return parts


def _with_norms_merged(children: Mapping[str, nn.Module], wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    """One part a child; a norm layer joins the layer before it, which it belongs to."""
    parts: dict[str, list[Parameter]] = {}
    last = ""
    for name, child in children.items():
        if last and is_norm(child):
            parts[last] += _among(child.parameters(), wanted)
        else:
            last = name
            parts[name] = _among(child.parameters(), wanted)
    return parts


def _timm(module: Any, wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    """The coarse groups that a timm model gives itself, and its classifier as the head."""
    from timm.models import group_parameters

    named = {name: param for name, param in module.named_parameters() if id(param) in wanted}
    ids: dict[str, int] = group_parameters(module, module.group_matcher(coarse=True), reverse=True)
    head = {id(param) for param in _classifier(module).parameters()}
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


def _classifier(module: Any) -> nn.Module:
    found = module.get_classifier() if callable(getattr(module, "get_classifier", None)) else None
    return found if isinstance(found, nn.Module) else nn.Identity()


def _own_prefix(names: Sequence[str], others: Iterable[str]) -> str:
    """The shortest start of the first name that no parameter outside the group has, e.g. ``"blocks.3"``."""
    components = names[0].split(".")
    starts = (".".join(components[:depth]) for depth in range(1, len(components)))
    elsewhere = [f"{name}." for name in others]
    return next((start for start in starts if not any(o.startswith(f"{start}.") for o in elsewhere)), names[0])


def _segmentation(module: Any, wanted: frozenset[int]) -> dict[str, list[Parameter]]:
    """Encoder parts, decoder, head of a segmentation-models-pytorch model (its heads for classes join the head)."""
    inner = getattr(module.encoder, "model", module.encoder)  # timm encoders are wrapped
    parts = {f"encoder.{name}": params for name, params in _split(inner, wanted).items()}
    parts["decoder"] = _among(module.decoder.parameters(), wanted)
    tail = [child for name, child in module.named_children() if name not in ("encoder", "decoder")]
    parts["head"] = _among((param for child in tail for param in child.parameters()), wanted)
    return {name: params for name, params in parts.items() if params}


def _merge_unnamed(parts: dict[str, list[Parameter]], named: Mapping[str, Parameter]) -> dict[str, list[Parameter]]:
    """Parameters that hang on no child (a class token, a position embedding) act at the input: first group."""
    claimed = {id(param) for params in parts.values() for param in params}
    loose = [param for param in named.values() if id(param) not in claimed]
    if not parts:
        return {next(iter(named)).split(".")[0]: loose}
    first = next(iter(parts))
    return {**parts, first: [*loose, *parts[first]]}
