"""Whether the outputs of a phase's frozen layers can be used again: what can be said without running them."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.engine.plan import Plan
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.feature_reuse import FeatureReuse
from lightning_finetune.run.find import RATES
from lightning_finetune.run.trainer import callbacks, is_dev_run
from lightning_finetune.tasks.base import BaseTask

Setting = Literal["exact", "off"] | int

_SEES_BATCHES = ("on_train_batch_start", "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end")
_KNOWN = {"lightning", "pytorch_lightning", "lightning_finetune"}


def begin_reuse(
    trainer: pl.Trainer, module: pl.LightningModule, plan: Plan, phase: int, setting: Setting
) -> FeatureReuse | None:
    """Prepare a phase to run its frozen layers once, or say why it cannot.

    Args:
        trainer: At the start of the phase's first epoch, or of the one that is resumed.
        module: Its module, frozen as the phase wants it.
        plan: Of the run.
        phase: That begins.
        setting: ``"exact"``, ``"off"``, or how many augmented views of each image to keep.
    """
    if setting == "off" or plan.trained(phase) in (None, plan.num_groups) or is_dev_run(trainer):
        return None

    def say(what: str) -> None:
        rank_zero_info(f"FineTune: phase {phase + 1} {what}.")

    owner = _owner(module)
    if why := _obstacle(trainer, module, owner, plan):
        say(f"runs its frozen layers in every epoch: {why}")
        return None
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
    views = _views(data, setting)
    if why := _not_for_training(trainer, data, plan, phase, views):
        say(f"runs its frozen layers on training images in every epoch: {why}")
        views = 0
    return FeatureReuse(trainer, module, owner, first_epoch=plan.first_epoch(phase), views=views, say=say)


def check_setting(setting: Setting) -> Setting:
    """``setting``, if it is one.

    Raises:
        PhaseError: It is not.
    """
    is_count = isinstance(setting, int) and not isinstance(setting, bool) and setting >= 1
    if setting not in ("exact", "off") and not is_count:
        raise PhaseError(
            f'Expected `feature_cache` to be "exact", "off" or a positive number of views, got {setting!r}.'
        )
    return setting


def _owner(module: pl.LightningModule) -> Any:
    """Whose ``forward_features`` gives what the head takes: a task's network, or the module itself."""
    owner = module.model if isinstance(module, BaseTask) else module
    return owner if callable(getattr(owner, "forward_features", None)) else None


def _obstacle(trainer: pl.Trainer, module: pl.LightningModule, owner: Any, plan: Plan) -> str | None:
    if not isinstance(getattr(trainer, "datamodule", None), ImageDataModule):
        return "only an ImageData numbers its images"
    if owner is None:
        return f"{type(module).__name__} does not say, by a method `forward_features`, what its head takes"
    if plan.train_norm:
        return "their norm layers train (train_norm=True)"
    if "training_step" in vars(module):
        return "`training_step` is replaced, as torch.compile does"
    lookers = [type(one).__name__ for one in callbacks(trainer) if _sees_batches(one)]
    return f"{', '.join(lookers)} may look at the images of a batch" if lookers else None


def _sees_batches(callback: Callback) -> bool:
    """Whether a hook that gets batches was written by somebody else."""
    return any(getattr(callback, hook).__module__.partition(".")[0] not in _KNOWN for hook in _SEES_BATCHES)


def _views(data: ImageDataModule, setting: Setting) -> int:
    """How many versions of an image there are to keep; 0: more than can be kept."""
    if not data.augment.is_random:
        return 1
    return setting if isinstance(setting, int) else 0


def _not_for_training(trainer: pl.Trainer, data: ImageDataModule, plan: Plan, phase: int, views: int) -> str | None:
    if data.mix is not None:
        return "images of a batch are mixed"
    if not views:
        return "they are augmented (feature_cache=4 would train on four views of each)"
    loader: Any = trainer.train_dataloader
    together = loader.sampler.covered()
    if trainer.world_size > 1 and loader.sampler.items < together[0].size:
        return "there are fewer than one batch for each process"
    epochs = plan.first_epoch(phase) + (plan.phases[phase].epochs or 0) - trainer.current_epoch
    batches = epochs * int(trainer.num_training_batches)
    batches += len(RATES) * trainer.accumulate_grad_batches if plan.phases[phase].needs_find else 0
    return "in so few steps it would save nothing" if batches <= min(views, epochs) * len(together) else None
