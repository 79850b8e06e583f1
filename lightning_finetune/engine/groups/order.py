"""Parts of a network put together to layer groups: norms, embeddings and what is new where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lightning_finetune.engine.groups.parts import Part, Reader

MIN_GROUPS = 3
"""What the lessons split a network into, and so the least that a known backbone gives."""


def ordered_parts(module: nn.Module, wanted: frozenset[int]) -> list[Part]:
    """Parts of ``module`` from the input to the head, expanded until there are at least three.

    Their roles are ``"other"`` for the body, ``"decoder"`` and ``"head"``; ``"loose"`` for a head that only its place
    makes one.

    Args:
        module: Any module.
        wanted: Ids of the parameters to group.
    """
    reader = Reader(wanted)
    parts = reader.parts(module)
    if _are_head_of(module, parts):
        return [_merged(parts)]
    while len(groups := arrange(parts)) < MIN_GROUPS:
        expanded = _expanded(parts, reader)
        if expanded is None:
            break
        parts = expanded
    return groups


def _are_head_of(module: nn.Module, parts: Sequence[Part]) -> bool:
    """Whether ``parts`` are the heads of a body of which nothing is to be grouped, because its author froze it."""
    if not all(part.role == "head" for part in parts):
        return False
    groups = arrange(Reader(frozenset(map(id, module.parameters()))).parts(module))
    new = {id(param) for group in groups if group.role == "head" for param in group.params}
    return groups[0].role == "other" and all(id(param) in new for part in parts for param in part.params)


def _expanded(parts: Sequence[Part], reader: Reader) -> list[Part] | None:
    """With the first part of the body that has parts in its place; None if none has."""
    for place, part in enumerate(parts):
        if part.role in ("block", "other", "embedding", "stays"):
            within = reader.within(part)
            if len(within) > 1:
                covered = {id(param) for inner in within for param in inner.params}
                loose = tuple(param for param in part.params if id(param) not in covered)
                within[0] = replace(within[0], params=(*loose, *within[0].params))
                is_block = part.role == "block"
                inner = [replace(p, role="block") if is_block and p.role == "other" else p for p in within]
                return [*parts[:place], *inner, *parts[place + 1 :]]
    return None


def arrange(parts: Sequence[Part]) -> list[Part]:
    """Groups of parts: body, decoder, head."""
    parts = _joined(_with_embeddings_first(parts))
    ends = _end_of_body(parts)
    body, rest = list(parts[:ends]), list(parts[ends:])
    decoders = [part for part in rest if part.role == "decoder"]
    heads = [part for part in rest if part.role != "decoder"]
    if heads and not (body or decoders):
        body, heads = heads[:-1], heads[-1:]
    groups = [replace(part, role="other") for part in body] + decoders
    return [*groups, _merged(heads)] if heads else groups


def _merged(parts: Sequence[Part]) -> Part:
    named = any(part.role == "head" for part in parts)
    params = tuple(param for part in parts for param in part.params)
    return Part(parts[0].name if len(parts) == 1 else "head", params, "head" if named else "loose")


def _end_of_body(parts: Sequence[Part]) -> int:
    """Where the head begins: after the last block; where nothing repeats, at the heads by name that end the network."""
    last = _last_block(parts)
    if last < 0:
        ends = len(parts)
        while ends and parts[ends - 1].role in ("head", "decoder", "loose"):
            ends -= 1
        return ends
    stays = [place for place, part in enumerate(parts) if part.role == "stays" and place < len(parts) - 1]
    return max([last, *stays]) + 1


def _with_embeddings_first(parts: Sequence[Part]) -> list[Part]:
    """All embeddings where the first of them is; at the input, if that is behind the last block."""
    embeddings = [part for part in parts if part.role == "embedding"]
    rest = [part for part in parts if part.role != "embedding"]
    if not (embeddings and rest):
        return list(parts)
    place, last = parts.index(embeddings[0]), _last_block(parts)
    params = tuple(param for part in embeddings for param in part.params)
    if place > last >= 0:
        return [replace(rest[0], params=(*params, *rest[0].params)), *rest[1:]]
    together = embeddings[0] if len(embeddings) == 1 else Part("embeddings", params, "embedding")
    place = place if last >= 0 else 0
    return [*rest[:place], together, *rest[place:]]


def _last_block(parts: Sequence[Part]) -> int:
    return max((place for place, part in enumerate(parts) if part.role == "block"), default=-1)


def _joined(parts: Sequence[Part]) -> list[Part]:
    """What joins the part before it, in it; also what hangs loose before the last block."""
    last = _last_block(parts)
    joined: list[Part] = []
    for place, part in enumerate(parts):
        joins = part.role == "joins" or (part.role == "loose" and place < last)
        if joined and joins:
            joined[-1] = replace(joined[-1], params=(*joined[-1].params, *part.params))
        else:
            joined.append(replace(part, role="other") if part.role == "joins" else part)
    return joined
