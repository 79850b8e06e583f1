"""Figures of runs and predictions: plain matplotlib, drawn without a display."""

from lightning_finetune.pictures.confusion import draw_confusion
from lightning_finetune.pictures.plan import draw_plan
from lightning_finetune.pictures.predictions import Shown, draw_predictions
from lightning_finetune.pictures.run import Band, draw_run

__all__ = ["Band", "Shown", "draw_confusion", "draw_plan", "draw_predictions", "draw_run"]
