"""Callbacks for anybody's Trainer: thin adapters between Lightning and the engines."""

from lightning_finetune.callbacks.best_checkpoint import BestCheckpoint as BestCheckpoint
from lightning_finetune.callbacks.epoch_table import EpochTable
from lightning_finetune.callbacks.fine_tune import FineTune
from lightning_finetune.callbacks.gradual_unfreezing import GradualUnfreezing
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint as LastCheckpoint
from lightning_finetune.callbacks.log_confusion import LogConfusion
from lightning_finetune.callbacks.log_predictions import LogPredictions
from lightning_finetune.callbacks.lr_range_test import LRRangeTest
from lightning_finetune.callbacks.one_cycle import OneCycle
from lightning_finetune.callbacks.plot_run import PlotRun
from lightning_finetune.callbacks.progressive_resizing import ProgressiveResizing
from lightning_finetune.callbacks.run_report import RunReport
from lightning_finetune.callbacks.training_diagnosis import TrainingDiagnosis
from lightning_finetune.callbacks.watch_model import WatchModel

__all__ = [
    "EpochTable",
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
]
