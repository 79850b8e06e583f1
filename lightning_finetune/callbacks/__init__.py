"""Callbacks for anybody's Trainer: thin adapters between Lightning and the engines."""

from lightning_finetune.callbacks.fine_tune import FineTune
from lightning_finetune.callbacks.gradual_unfreezing import GradualUnfreezing
from lightning_finetune.callbacks.one_cycle import OneCycle

__all__ = ["FineTune", "GradualUnfreezing", "OneCycle"]
