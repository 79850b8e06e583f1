"""What the names of a network's layers say of their place."""

from __future__ import annotations

import re

_HEADS = frozenset(
    {"head", "heads", "classifier", "classifiers", "fc", "logits", "score", "scores", "predictor", "predictors", "cls"}
    | {"prediction", "predictions", "outputs", "outc", "aux", "rpn", "fpn", "extra", "pooler"}
)
_BEGIN_HEADS = frozenset({"out", "output", "outputs", "last"})
_SEVERAL_HEADS = frozenset({"aux", "head", "classifier"})
_EMBEDS = re.compile(r"(^|_)(embed(ding|der)?s?|wte|wpe|prompts?)(_|$)")
_PREDICTS = re.compile(r"(^|_)(class|bbox|box|mask)_embed$")  # of DETR and its like
_ENDS = re.compile(r"^(final|post|last)_|_(final|post|last)$|^(ln|norm)_f$")
_ACCOMPANIES = re.compile(r"embed|downsampl|norm")

is_decoder = re.compile(r"(^|_)decoder$").search
"""Whether a layer of this name decodes what an encoder beside it gives."""

is_encoder = re.compile(r"(^|_)encoder$").search
"""Whether a layer of this name encodes an input."""

says_head = re.compile(r"(^|_)heads?$").search
"""Whether the name says so in a word of its own: ``flow_head``."""


def is_head(name: str) -> bool:
    """Whether a layer of this name makes results of features: ``classifier``, ``lm_head``, ``AuxLogits``, ``aux2``."""
    if _PREDICTS.search(name):
        return True
    if is_embedding(name):
        return False
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    numbered = (word.rstrip("0123456789") for word in words)
    return not _HEADS.isdisjoint(words) or words[0] in _BEGIN_HEADS or not _SEVERAL_HEADS.isdisjoint(numbered)


def is_embedding(name: str) -> bool:
    """Whether a layer of this name acts at the input, wherever it was declared: ``embeddings``, ``patch_embed``."""
    return bool(_EMBEDS.search(name)) and not _PREDICTS.search(name)


def accompanies(name: str) -> bool:
    """Whether layers of this name stand beside the stages of a network, one for each: ``patch_embeddings``."""
    return bool(_ACCOMPANIES.search(name)) and not is_head(name)


def place(name: str) -> int:
    """0, 1 or 2 for layers whose name leaves their place to their order, ends the body, or begins the head."""
    return 2 if is_head(name) else 1 if _ENDS.search(name) else 0
