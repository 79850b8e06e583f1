"""What the name of a metric says: whether less of it is better, or more."""

from __future__ import annotations

import re
import warnings

from lightning_finetune.engine.argument_types import users_level

FALLS = ("loss", "error", "mae", "mse")
"""Parts of the names of metrics of which less is better."""

RISES = frozenset({"acc", "accuracy", "auc", "auroc", "dice", "f1", "iou", "miou", "precision", "r2", "recall"})
"""Words in the names of metrics of which more is better; what has neither counts as one of these, without certainty."""


def less_is_better(name: str) -> bool:
    """By the words in the name of a metric."""
    return any(word in name.lower() for word in FALLS)


def warn_of_mode(owner: str, metric: str, mode: str) -> None:
    """Warn of a metric whose lowest value counts as its best, as is the default, and whose name says the reverse.

    Args:
        owner: Who looks for the best.
        metric: Its name, such as ``"val_accuracy"``.
        mode: ``"min"`` or ``"max"``.
    """
    words = set(re.split("[^a-z0-9]+", metric.lower()))
    if mode == "min" and words & RISES and not less_is_better(metric):
        warnings.warn(
            f"{owner} takes the lowest {metric} for the best (mode='min'). If more of it is better, give mode='max'.",
            stacklevel=users_level(),
        )
