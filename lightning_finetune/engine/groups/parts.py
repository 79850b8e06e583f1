"""The parts of any network in the order in which they act, read from its structure and its names.

Networks repeat themselves: a list of blocks, or stages that are numbered. What stands before the last block is the
body; what stands after it makes of features what a task asks for, and so is the head. A norm belongs to the layer
before it, an embedding to the input. Where nothing repeats, the children are the parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn
from torch.nn import Parameter

from lightning_finetune.engine.groups import layer_names as names
from lightning_finetune.engine.groups import repeats
from lightning_finetune.engine.groups.said import is_known, is_segmentation, known_parts, says_itself
from lightning_finetune.engine.norms import is_leaf, is_table, scales_only

Role = Literal["block", "joins", "embedding", "stays", "loose", "decoder", "head", "other"]
"""``joins`` the part before it; ``stays`` in the body, though it comes after blocks; ``loose`` hangs on no child."""

_CROWDED = 6
"""A module with so many children that hold layers shows its steps itself."""


@dataclass(frozen=True, eq=False)
class Part:
    """Parameters that act together.

    Attributes:
        name: Of the module that holds them, within the network.
        params: In the module's order.
        role: What its name and its place say of it.
        module: Of that name; None where there is nothing to be found within.
    """

    name: str
    params: tuple[Parameter, ...]
    role: Role = "other"
    module: nn.Module | None = field(default=None, repr=False)


@dataclass
class _Level:
    """What is known of the children of one module before the next of them is looked at."""

    children: dict[str, nn.Module]
    repeats: repeats.Repeats
    inside: bool
    base: str | None
    walkable: set[str]
    seen: set[str] = field(default_factory=set)
    after_blocks: bool = False
    after_network: bool = False


class Reader:
    """Reads the parts of a network that hold certain parameters.

    Args:
        wanted: Ids of those parameters; modules without any are not there for it.
    """

    def __init__(self, wanted: frozenset[int]) -> None:
        self.wanted = wanted

    def parts(self, module: nn.Module) -> list[Part]:
        """Parts from the input to the head, not yet put together; a wrapper has those of what it wraps."""
        module = _uncompiled(module)
        children = self._children(module)
        alone = next(iter(children.values()), None) if len(children) == 1 else None
        if alone is None or is_leaf(alone) or repeats.is_list(module, children) or self._known(module, "") is not None:
            return self._walk(module, "", inside=False)
        return [*self.parts(alone), *(replace(part, role="loose") for part in self._loose(module, ""))]

    def within(self, part: Part) -> list[Part]:
        """The parts of a part, or itself alone."""
        if part.module is None or is_leaf(part.module):
            return [part]
        return self._walk(part.module, part.name, inside=False)

    # -- what counts ---------------------------------------------------------------------------------------------------

    def _own(self, params: Iterable[Parameter]) -> tuple[Parameter, ...]:
        return tuple(param for param in params if id(param) in self.wanted)

    def _holds(self, module: nn.Module) -> bool:
        return any(id(param) in self.wanted for param in module.parameters())

    def _children(self, module: nn.Module) -> dict[str, nn.Module]:
        """Children that hold something; what ends the network by its name comes last, wherever it was declared.

        An encoder comes before what decodes.
        """
        children = {name: child for name, child in module.named_children() if self._holds(child)}
        order = sorted(children, key=names.place)
        first = next((place for place, name in enumerate(order) if _decodes(name, children[name])), len(order))
        late = [name for name in order[first:] if names.is_encoder(name)]
        rest = [name for name in order[first:] if name not in late]
        return {name: children[name] for name in (*order[:first], *late, *rest)}

    def _loose(self, module: nn.Module, name: str) -> list[Part]:
        own = [(key, param) for key, param in module.named_parameters(recurse=False) if id(param) in self.wanted]
        return [Part(_join(name, key), (param,), "loose" if param.numel() == 1 else "embedding") for key, param in own]

    # -- one level after the other -------------------------------------------------------------------------------------

    def _walk(self, module: nn.Module, name: str, *, inside: bool) -> list[Part]:
        """Parts within ``module``; ``inside`` a network of which all is pretrained, decoders too."""
        module = _uncompiled(module)
        if (known := self._known(module, name)) is not None:
            return known
        children = self._children(module)
        if repeats.is_list(module, children):
            few = len(children) < repeats.STAGES
            return [part for own, child in children.items() for part in self._of_list(child, _join(name, own), few)]
        level = self._level(module, children, inside)
        parts = [part for own in children for part in self._of_child(level, own, name)]
        return self._with_loose(parts, self._loose(module, name), level)

    def _of_list(self, child: nn.Module, name: str, few: bool) -> list[Part]:
        """A block of a list; where they are few, the blocks in it."""
        if few and self._is_list(child):
            return self._walk(child, name, inside=False)
        return [Part(name, self._own(child.parameters()), _in_list(child), child)]

    def _level(self, module: nn.Module, children: dict[str, nn.Module], inside: bool) -> _Level:
        prefix = getattr(type(module), "base_model_prefix", None)  # transformers' name for what is pretrained
        bodies = [own for own, child in children.items() if not (names.is_head(own) or is_leaf(child))]
        full = [own for own in bodies if self._has_blocks(children[own])]
        repeated = repeats.find(children)
        alike = repeats.of_one_kind(children, full) - repeated.taken
        repeated.stages = {**{own: [children[own]] for own in alike}, **repeated.stages}
        if len(bodies) >= _CROWDED:
            full = [own for own in full if self._holds_list(children[own])]
        inside = inside or isinstance(prefix, str) or isinstance(module, nn.Transformer)
        return _Level(children, repeated, inside, prefix if prefix in children else None, set(full))

    def _of_child(self, level: _Level, own: str, name: str) -> list[Part]:
        child, full = level.children[own], _join(name, own)
        if own in level.repeats.taken:
            return []
        if own in level.repeats.stages:
            level.after_blocks = True
            return [Part(full, self._all(level.repeats.stages[own]), "block", child)]
        if own in level.repeats.lists:
            level.after_blocks = True
            rows = enumerate(level.repeats.lists[own])
            return [Part(f"{full}.{place}", self._all(row), "block") for place, row in rows if self._all(row)]
        role = self._role(level, own, child)
        level.seen.add(own)
        if role is not None:
            return [Part(full, self._own(child.parameters()), role, child)]
        is_list = self._is_list(child)
        within = self._walk(child, full, inside=level.inside)
        if own not in level.walkable and own != level.base:  # its head ends what goes on from the layers before it
            within = [replace(part, role="stays") if part.role == "other" else part for part in within]
        level.after_blocks |= is_list
        level.after_network |= not is_list
        return within

    def _all(self, modules: Iterable[nn.Module]) -> tuple[Parameter, ...]:
        return self._own(param for module in modules for param in module.parameters())

    def _role(self, level: _Level, own: str, child: nn.Module) -> Role | None:
        """None: parts are to be found within."""
        if scales_only(child):
            return "embedding" if names.is_embedding(own) else "joins"
        if level.base is not None:
            return None if own == level.base else "head"
        if names.is_head(own):
            return "head"
        if not level.inside and level.seen & {"encoder", "backbone"}:
            if names.is_decoder(own):
                return "decoder"
            if "backbone" in level.seen:
                return "head"
        if names.is_embedding(own) or is_table(child):
            return "other" if level.after_network and not (level.inside and names.is_embedding(own)) else "embedding"
        if own in level.walkable or self._ends_in_head(child):
            return None
        if level.after_blocks and level.inside and is_leaf(child):
            return "joins"
        return "stays" if level.after_blocks and (level.inside or _convolves(child)) else "other"

    def _ends_in_head(self, child: nn.Module) -> bool:
        """Whether ``child`` is made of layers that convolve, and of a head of their own, as the update of RAFT is."""
        parts = self._children(child)
        heads = [part for name, part in parts.items() if names.says_head(name)]
        return bool(heads) and any(_convolves(part) for part in parts.values() if part not in heads)

    def _with_loose(self, parts: list[Part], loose: list[Part], level: _Level) -> list[Part]:
        """Parameters that hang on no child act at the input; at the end, if they are scalars or beside one network."""
        if not (parts or loose):
            return []
        if not parts:
            return [Part(loose[0].name, tuple(param for part in loose for param in part.params))]
        bodies = [own for own, child in level.children.items() if not (names.is_head(own) or scales_only(child))]
        wraps = level.after_network and len(bodies) == 1
        first = [part for part in loose if part.role != "loose" and not wraps]
        rest = [replace(part, role="loose") for part in loose if part not in first]
        if first:
            parts[0] = replace(parts[0], params=(*(p for part in first for p in part.params), *parts[0].params))
        return [*parts, *rest]

    # -- what is within ------------------------------------------------------------------------------------------------

    def _is_list(self, module: nn.Module) -> bool:
        return repeats.is_list(module, self._children(module))

    def _holds_list(self, module: nn.Module) -> bool:
        """Whether ``module`` is a list of blocks, or holds a long one that says so."""
        lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) >= repeats.STAGES]
        return self._is_list(module) or any(self._is_list(part) for part in lists)

    def _has_blocks(self, module: nn.Module) -> bool:
        """Whether blocks are to be found in ``module``, or it says itself what it is made of."""
        return any(
            self._is_list(part) or is_known(part) or repeats.find(self._children(part)).stages
            for part in map(_uncompiled, module.modules())
        )

    def _known(self, module: nn.Module, name: str) -> list[Part] | None:
        if is_segmentation(module):
            return self._segmentation(module, name)
        given = known_parts(module, self.wanted)
        if given is None:
            return None
        parts = [Part(_join(name, own), self._own(params), "block") for own, params in given.items()]
        has_head = says_itself(module) or [*given][-1] == "head"
        return [*parts[:-1], replace(parts[-1], role="head")] if has_head else parts

    def _segmentation(self, module: Any, name: str) -> list[Part]:
        """Encoder parts, decoder, head of a segmentation-models-pytorch model (its heads for classes join the head)."""
        inner = getattr(module.encoder, "model", module.encoder)  # timm encoders are wrapped
        body = [replace(part, name=_join(name, f"encoder.{part.name}")) for part in self.parts(inner)]
        tail = [child for own, child in module.named_children() if own not in ("encoder", "decoder")]
        parts = [
            *(part if part.role in ("joins", "embedding") else replace(part, role="block") for part in body),
            Part(_join(name, "decoder"), self._own(module.decoder.parameters()), "decoder"),
            Part(_join(name, "head"), self._all(tail), "head"),
        ]
        return [part for part in parts if part.params]


def _uncompiled(module: nn.Module) -> nn.Module:
    return next(module.children()) if type(module).__name__ == "OptimizedModule" else module  # of `torch.compile`


def _decodes(name: str, module: nn.Module) -> bool:
    return any(names.is_decoder(own) for own in (name, *(own for own, _ in module.named_children())))


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for part in module.modules())


def _in_list(child: nn.Module) -> Role:
    if scales_only(child):
        return "joins"
    return "block" if not is_leaf(child) else "stays" if _convolves(child) else "other"


def _join(name: str, own: str) -> str:
    """The name of a child of ``name``, which may be empty."""
    return f"{name}.{own}" if name else own
