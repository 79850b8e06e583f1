"""The last checkpoint of a run, from which it resumes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.errors import FinetuneError
from lightning_finetune.run.artifacts import resume_command
from lightning_finetune.run.checkpoint_file import write_safely
from lightning_finetune.run.signals import OTHERS, HeldSignals
from lightning_finetune.run.trainer import validation_begins_anew, validation_follows


class LastCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` for one ``last.ckpt`` after each epoch, from which a run resumes.

    After Ctrl-C or SIGTERM (from a machine that shuts down, or a sweep that ends a trial), the callback waits for the
    end of the optimizer step with all of its accumulated batches, saves, and stops; a second Ctrl-C does not wait.
    It also waits after the signal by which SLURM requeues a job (SIGUSR1, or whichever you gave Lightning), which alone
    would save within a step; no run resumes from there to the same bits. Within a validation, a run of one process
    finishes the batch, saves, and repeats the validation when it resumes. Several processes agree on the step,
    whichever of them got the signal, and wait for the end of a validation.

    Args:
        every_n_train_steps: Also save every so many optimizer steps, for long epochs.
    """

    def __init__(self, every_n_train_steps: int | None = None) -> None:
        check_types(LastCheckpoint.__init__, locals())
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise FinetuneError(f"Expected `every_n_train_steps` to be at least 1, got {every_n_train_steps}.")
        at_epoch_end = True if every_n_train_steps is None else None
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=at_epoch_end,
            enable_version_counter=False,  # the same file each time
        )
        self._within_epochs = every_n_train_steps is not None
        self._signals = HeldSignals()
        self._step = 0
        self._stepped = True
        self._validates = False

    @property
    def path(self) -> Path:
        """Where the checkpoint lies, once there is one."""
        return Path(self.format_checkpoint_name({}))

    # By these two a logger that uploads checkpoints names them; Lightning would call the newest the best as well.

    @property
    def best_model_path(self) -> str:
        """None is the best."""
        return ""

    @best_model_path.setter
    def best_model_path(self, path: str) -> None: ...

    @property
    def last_model_path(self) -> str:
        """The checkpoint."""
        return str(self.path) if self.dirpath else ""

    @last_model_path.setter
    def last_model_path(self, path: str) -> None: ...

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        write_safely(trainer)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._step = trainer.global_step
        self._signals.hold()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if signal.SIGINT in self._signals.agreed(trainer):  # since the last step; the end of the epoch was saved
            raise KeyboardInterrupt

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stepped = trainer.global_step != self._step  # else the gradients of further batches are to come
        self._step = trainer.global_step
        if not (trainer.is_last_batch or validation_follows(trainer)):  # what is saved then resumes without it
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            if self._stepped:
                self._obey(trainer)

    @override
    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.world_size == 1 and self._stepped and _validates(trainer):
            self._validates = True
            self._obey(trainer)
            self._validates = False

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._stepped and _validates(trainer) and not trainer.is_last_batch:  # amid an epoch
            super().on_train_batch_end(trainer, pl_module, None, None, 0)
            self._obey(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._validates:
            validation_begins_anew(checkpoint)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._within_epochs:
            trainer.save_checkpoint(self.path, weights_only=False)
        for number in self._signals.agreed(trainer) - {signal.SIGINT}:
            self._signals.let_through(number)  # Lightning stops when what the epoch has measured is logged

    def _obey(self, trainer: pl.Trainer) -> None:
        """Save, and do what the signals ask for."""
        got = self._signals.agreed(trainer)
        for number in got.intersection(OTHERS):
            self._signals.let_through(number)
        if got & {signal.SIGINT, signal.SIGTERM}:
            trainer.save_checkpoint(self.path, weights_only=False)
        if signal.SIGTERM in got:
            self._signals.let_through(signal.SIGTERM)  # Lightning stops
        if signal.SIGINT in got:
            raise KeyboardInterrupt

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._signals.release()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._signals.release()
        if (
            isinstance(exception, (KeyboardInterrupt, SIGTERMException))
            and trainer.is_global_zero
            and self.path.is_file()
        ):
            rank_zero_info(f"To continue:\n  {resume_command(trainer, self.path)}")


def _validates(trainer: pl.Trainer) -> bool:
    """Whether this is a validation of the training, not the check before it."""
    return trainer.validating and trainer.state.fn == TrainerFn.FITTING
