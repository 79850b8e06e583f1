"""The last checkpoint of a run, from which it resumes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from lightning_finetune.run.folder import resume_command

_REQUEUE: int | None = getattr(signal, "SIGUSR1", None)
"""SLURM's signal, on systems that have it."""


class LastCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` for one ``last.ckpt`` after each epoch, from which a run resumes.

    In a run of one process, Ctrl-C, or the SIGTERM of a machine that is taken away or of a sweep that gives a trial up,
    ends the step, saves, and stops; a second Ctrl-C does not wait. For SLURM's SIGUSR1 Lightning would save and requeue
    the job amid a step, from which no run resumes to the same bits; it waits for the end of the step, or of the
    validation batch. In a distributed run, whose processes could not agree on a step, the checkpoint of the last epoch
    is what remains.

    Args:
        every_n_train_steps: Save this often too, in optimizer steps; for epochs that take long.
    """

    def __init__(self, every_n_train_steps: int | None = None) -> None:
        at_epoch_end = True if every_n_train_steps is None else None
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=at_epoch_end,
            enable_version_counter=False,  # the same file each time
        )
        self._within_epochs = every_n_train_steps is not None
        self._asked: set[int] = set()
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

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
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._asked = set()
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in filter(None, (signal.SIGINT, _REQUEUE)):
                self._hold(number)

    def _hold(self, signum: int) -> None:
        handler = signal.getsignal(signum)
        if callable(handler):  # Lightning's, Python's; a signal that is ignored, or kills, goes on to do so
            self._before[signum] = handler
            signal.signal(signum, self._ask)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._asked.add(signum)
        if signum == signal.SIGINT:  # a second one does not wait
            signal.signal(signum, self._before.pop(signum))

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _requeue(self) -> None:
        if _REQUEUE is not None and _REQUEUE in self._asked:
            self._asked.remove(_REQUEUE)
            self._before[_REQUEUE](_REQUEUE, None)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch:  # what is saved then resumes without the validation that follows
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self._requeue()
        interrupted = signal.SIGINT in self._asked
        if interrupted or (trainer.received_sigterm and trainer.world_size == 1):
            trainer.save_checkpoint(self.path)
        if interrupted:
            raise KeyboardInterrupt
        # Lightning itself stops after a SIGTERM.

    @override
    def on_validation_batch_end(self, *args: Any) -> None:
        self._requeue()  # a validation may take longer than SLURM waits, and leaves the model as it is

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._within_epochs:
            trainer.save_checkpoint(self.path)
        self._requeue()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._release()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._release()
        if (
            isinstance(exception, (KeyboardInterrupt, SIGTERMException))
            and trainer.is_global_zero
            and self.path.is_file()
        ):
            rank_zero_info(f"To continue: {resume_command(trainer, self.path)}")
