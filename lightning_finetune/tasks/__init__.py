"""LightningModules for the lessons' tasks."""

from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.classification import ImageClassifier, Prediction
from lightning_finetune.tasks.linear_regression import LinearRegression
from lightning_finetune.tasks.measures.thresholds import SampleFBeta
from lightning_finetune.tasks.multilabel import LabelsPrediction, MultiLabelClassifier
from lightning_finetune.tasks.regression import ImageRegressor, NumbersPrediction
from lightning_finetune.tasks.segmentation import MaskPrediction, SemanticSegmenter, UNetSegmenter

__all__ = [
    "BaseTask",
    "ImageClassifier",
    "ImageRegressor",
    "LabelsPrediction",
    "LinearRegression",
    "MaskPrediction",
    "MultiLabelClassifier",
    "NumbersPrediction",
    "Prediction",
    "SampleFBeta",
    "SemanticSegmenter",
    "UNetSegmenter",
]
