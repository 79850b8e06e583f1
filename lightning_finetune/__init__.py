"""The fine-tuning practice of the fast.ai lessons for every PyTorch Lightning user."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lightning_finetune.__about__ import __version__

# ruff: noqa: F403, F405
if TYPE_CHECKING:  # of all that these hold, what `__all__` names is public
    from lightning_finetune.after.interpretation import *
    from lightning_finetune.after.loading import *
    from lightning_finetune.callbacks import *
    from lightning_finetune.data import *
    from lightning_finetune.engine.phases import *
    from lightning_finetune.notebook import *
    from lightning_finetune.tasks import *

__all__ = [
    "EpochTable",
    "FineTune",
    "GradualUnfreezing",
    "ImageClassifier",
    "ImageData",
    "ImageItems",
    "ImageRegressor",
    "ImageStream",
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
    "SemanticSegmenter",
    "TrainingDiagnosis",
    "UNetSegmenter",
    "WatchModel",
    "__version__",
    "fine_tune",
    "interpret",
    "load",
    "lr_find",
    "show_results",
]

_HOMES = ("engine.phases", "data", "tasks", "after.loading", "after.interpretation", "callbacks", "notebook")
"""Modules that hold the public names, in the order in which they import each other."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing (PEP 562)."""
    for home in _HOMES if name in __all__ else ():
        value = vars(importlib.import_module(f"{__name__}.{home}")).get(name)
        if value is not None and not isinstance(value, ModuleType):  # `callbacks` holds a module `fine_tune`
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_MOVED = {
    "after": ("export", "interpretation"),
    "cli": ("loggers",),
    "data.batches": ("data.data_module", "data.dataset", "data.loader"),
    "data.block": ("data.items", "data.labels", "data.masks", "data.options", "data.paths", "data.splits"),
    "data.pixels": ("data.augment", "data.mix", "data.transforms"),
    "engine": (
        "diagnosis",
        "freezing",
        "history",
        "layer_groups",
        "param_groups",
        "phases",
        "plan",
        "range_test",
        "resize",
        "schedules",
        "snapshot",
    ),
    "tasks.measures": ("tasks.losses", "tasks.metrics", "tasks.thresholds"),
    "tasks.networks": ("tasks.backbones", "tasks.heads", "tasks.weights"),
    "tasks.shared": ("tasks.optimizers", "tasks.symmetries"),
}
"""Documented modules of 0.1, by the package that holds them now."""

_RENAMED = {
    "callbacks.checkpoints": "callbacks",
    "inference": "after.loading",
    "tasks.prediction": "tasks.shared.sources",
}


class _Moved(MetaPathFinder, Loader):
    """Finds a module by the name that it once had, which saved configurations and users' code go on saying."""

    def __init__(self) -> None:
        kept = {old: f"{home}.{old.rpartition('.')[2]}" for home, names in _MOVED.items() for old in names}
        self.now = {f"{__name__}.{old}": f"{__name__}.{new}" for old, new in (kept | _RENAMED).items()}

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.now else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = partial(getattr, importlib.import_module(self.now[module.__name__]))  # type: ignore[method-assign]


sys.meta_path.append(_Moved())
