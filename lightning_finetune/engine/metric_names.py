"""What the name of a metric says: whether less of it is better, or more."""

from __future__ import annotations

import re

_FALLS = ("loss", "error", "mae", "mse")
_RISES = frozenset({"acc", "accuracy", "auc", "auroc", "dice", "f1", "iou", "miou", "precision", "r2", "recall"})


def less_is_better(name: str) -> bool:
    """By the parts of its words; what says nothing counts as a metric of which more is better."""
    return any(part in name.lower() for part in _FALLS)


def more_is_better(name: str) -> bool:
    """Whether a word of the name says so for sure."""
    return bool(_RISES & {*re.split("[^a-z0-9]+", name.lower())}) and not less_is_better(name)
