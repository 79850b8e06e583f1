"""Figures of runs and predictions: plain matplotlib, drawn without a display."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_finetune.show.figures.content import Band, Shown

if TYPE_CHECKING:
    from lightning_finetune.show.figures.confusion import draw_confusion
    from lightning_finetune.show.figures.plan import draw_plan
    from lightning_finetune.show.figures.predictions import draw_predictions
    from lightning_finetune.show.figures.whole_run import draw_run

__all__ = ["Band", "Shown", "draw_confusion", "draw_plan", "draw_predictions", "draw_run"]


def __getattr__(name: str) -> Any:
    """Load matplotlib when something is first drawn (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{name.removeprefix('draw_')}"), name)
