"""Blocks that a network repeats: lists of them, and stages that are numbered."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from lightning_finetune.engine.groups import layer_names as names
from lightning_finetune.engine.norms import is_leaf, scales_only

STAGES = 3
"""So many layers of one kind, or numbered, are the stages of a network."""

Children = Mapping[str, nn.Module]


@dataclass
class Repeats:
    """What repeats among the children of a module.

    Attributes:
        stages: By a child's name, the modules of the stage that it stands for: itself and what accompanies it.
        lists: By the name of a child that is a list, the blocks in it, each with what accompanies it.
        taken: Names of the children that accompany others.
    """

    stages: dict[str, list[nn.Module]] = field(default_factory=dict)
    lists: dict[str, list[list[nn.Module]]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)


def is_list(module: nn.Module, children: Children) -> bool:
    """Whether ``module`` is a list of blocks: layers that hold others, one after the other.

    Args:
        module: Any module.
        children: Those of its children that matter.
    """
    blocks = [child for child in children.values() if not is_leaf(child)]
    if isinstance(module, (nn.ModuleList, nn.Identity)):
        return bool(blocks)
    if not isinstance(module, (nn.Sequential, nn.ModuleDict)) or not blocks:
        return False
    others = [child for child in children.values() if not scales_only(child)]
    [(_, most)] = Counter(map(type, blocks)).most_common(1)
    return most == len(others) > 1 or (most >= STAGES and 2 * most >= len(others))


def find(children: Children) -> Repeats:
    """What repeats among ``children``, which are not those of a list."""
    repeated = Repeats()
    numbered = _numbered(children)
    for family in numbered.values():
        if not names.accompanies(family[0]) and all(not is_leaf(children[name]) for name in family):
            repeated.stages |= {name: [children[name]] for name in family}
    for stem, family in numbered.items():
        stages = [name for name in repeated.stages if _digits(name) in set(map(_digits, family))]
        if names.accompanies(stem) and len(stages) == len(family):
            for name in family:
                mate = next(stage for stage in stages if _digits(stage) == _digits(name))
                repeated.stages[mate].append(children[name])
            repeated.taken |= set(family)
    _zip_lists(children, repeated)
    return repeated


def _numbered(children: Children) -> dict[str, list[str]]:
    """Names that differ by a number alone, such as ``layer1`` to ``layer4``, by what they have in common."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in children:
        if match := re.fullmatch(r"(.*[a-zA-Z]_?)\d+", name):
            families[match[1]].append(name)
    return {stem: family for stem, family in families.items() if len(family) >= STAGES}


def _digits(name: str) -> str:
    return name[len(name.rstrip("0123456789")) :]


def _zip_lists(children: Children, repeated: Repeats) -> None:
    """Lists of one length, of which one holds the blocks and the others what goes with each of them."""
    lists = {name: list(child) for name, child in children.items() if isinstance(child, nn.ModuleList)}
    main = next(
        (name for name, each in lists.items() if not (names.accompanies(name) or all(map(is_leaf, each)))), None
    )
    if main is None:
        return
    mates = [n for n, each in lists.items() if n != main and names.accompanies(n) and len(each) == len(lists[main])]
    if mates:
        repeated.lists[main] = [list(row) for row in zip(lists[main], *(lists[mate] for mate in mates), strict=True)]
        repeated.taken |= set(mates)


def of_one_kind(children: Children, hold_blocks: Iterable[str]) -> set[str]:
    """Names of the children that are stages because there are several of one type, each with blocks in it."""
    kinds: dict[type[nn.Module], list[str]] = defaultdict(list)
    for name in hold_blocks:
        if not isinstance(children[name], nn.ModuleList):
            kinds[type(children[name])].append(name)
    return {name for kind in kinds.values() if len(kind) >= STAGES for name in kind}
