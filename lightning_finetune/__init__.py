"""The fine-tuning practice of the fast.ai lessons for every PyTorch Lightning user."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_finetune.__about__ import __version__

if TYPE_CHECKING:
    from lightning_finetune.after.interpretation import interpret
    from lightning_finetune.after.loading import load
    from lightning_finetune.callbacks import (
        FineTune,
        GradualUnfreezing,
        LogConfusion,
        LogPredictions,
        LRRangeTest,
        OneCycle,
        PlotRun,
        ProgressiveResizing,
        RunReport,
        TrainingDiagnosis,
        WatchModel,
    )
    from lightning_finetune.data import ImageData, ImageItems
    from lightning_finetune.engine.phases import Phase
    from lightning_finetune.tasks import ImageClassifier, LinearRegression, MultiLabelClassifier, UNetSegmenter

__all__ = [
    "FineTune",
    "GradualUnfreezing",
    "ImageClassifier",
    "ImageData",
    "ImageItems",
    "LRRangeTest",
    "LinearRegression",
    "LogConfusion",
    "LogPredictions",
    "MultiLabelClassifier",
    "OneCycle",
    "Phase",
    "PlotRun",
    "ProgressiveResizing",
    "RunReport",
    "TrainingDiagnosis",
    "UNetSegmenter",
    "WatchModel",
    "__version__",
    "interpret",
    "load",
]

_HOMES = {
    "callbacks": (
        "FineTune",
        "GradualUnfreezing",
        "LRRangeTest",
        "LogConfusion",
        "LogPredictions",
        "OneCycle",
        "PlotRun",
        "ProgressiveResizing",
        "RunReport",
        "TrainingDiagnosis",
        "WatchModel",
    ),
    "data": ("ImageData", "ImageItems"),
    "after.loading": ("load",),
    "after.interpretation": ("interpret",),
    "engine.phases": ("Phase",),
    "tasks": ("ImageClassifier", "LinearRegression", "MultiLabelClassifier", "UNetSegmenter"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
