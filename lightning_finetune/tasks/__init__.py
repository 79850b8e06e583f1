"""LightningModules for the lessons' tasks."""

from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.classification import ImageClassifier, Prediction

__all__ = ["BaseTask", "ImageClassifier", "Prediction"]
