"""Where a run is in its epochs: how long they really were, and where it goes on with other settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import lightning.pytorch as pl

from lightning_finetune.engine.epochs import Epoch, expected
from lightning_finetune.run.trainer import (
    accumulation,
    move_within_epoch,
    resumed_place,
    seen_batches,
    steps_of_epoch,
    steps_per_epoch,
)

_LOST = (
    "the checkpoint was saved within an optimizer step, of which the gradients of {} batch(es) are lost: the weights "
    "will not be those of a run that was not stopped. Save when a step is done, as LastCheckpoint does."
)


class Progress:
    """The epochs of a run so far, and that which it is in.

    The place of a run is an epoch and the part of it that is done. Optimizer steps are counted only to tell how long
    epochs were, so that a run goes on at its place whatever the number of steps that an epoch has now.

    Attributes:
        epochs: Up to and with the current one.
    """

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self._batches: int | None = None

    def go_on(self, trainer: pl.Trainer, moves: bool) -> list[str]:
        """Find the place of a run that begins, or is resumed.

        Args:
            trainer: At ``on_train_start``.
            moves: Whether to move Lightning's place within the epoch too, which one callback has to do.

        Returns:
            What is other than when the checkpoint was saved, in sentences.
        """
        loaded, batches, said = self.epochs, self._batches, steps_of_epoch(trainer, trainer.current_epoch)
        self._batches = _batches(trainer)
        if moves and batches is not None and self._batches not in (None, batches):
            move_within_epoch(trainer, batches)
        epoch, place = trainer.current_epoch, resumed_place(trainer)
        here = 0 if place is None else seen_batches(trainer) // accumulation(trainer, epoch)
        self.epochs = loaded[:epoch] or self._evenly(trainer, (said or 0) if place == "after" else here)
        if place is None:
            self._make_up(trainer)  # the last epoch may have ended after the checkpoint was saved
        made = trainer.global_step - self._made()
        self.epochs.append(loaded[epoch] if len(loaded) > epoch else expected(said, self.epochs))
        if place == "after":
            self.end_epoch(trainer)
        elif made and said is not None and (batches, self.epochs[-1].said) != (self._batches, said):
            self.epochs[-1] = Epoch(made + said - here, said, False, made, Fraction(here, said))
        return self._changes(trainer, loaded)

    def _made(self) -> int:
        return sum(epoch.count for epoch in self.epochs)

    def _make_up(self, trainer: pl.Trainer) -> None:
        """Let the epochs together have the steps that were made."""
        if self.epochs:
            real = self.epochs[-1].count + trainer.global_step - self._made()
            self.epochs[-1] = replace(self.epochs[-1], steps=real, is_estimate=False)

    def _evenly(self, trainer: pl.Trainer, here: int) -> list[Epoch]:
        """The epochs before the current one, of which older checkpoints say nothing, and ``here`` steps after them."""
        epoch, left = trainer.current_epoch, trainer.global_step - here
        said = steps_per_epoch(trainer, epoch)
        if said is None or sum(said) != left:
            said = [left * (k + 1) // epoch - left * k // epoch for k in range(epoch)]
        return [Epoch(steps, steps) for steps in said]

    def _changes(self, trainer: pl.Trainer, loaded: Sequence[Epoch]) -> list[str]:
        if not loaded:
            return []
        before, after = loaded[-1].said, steps_of_epoch(trainer, len(loaded) - 1)
        if before == after:
            lost = seen_batches(trainer) % accumulation(trainer, trainer.current_epoch)
            return [_LOST.format(lost)] if lost else []
        current = self.epochs[-1]
        place = trainer.current_epoch + current.behind(current.made)
        return [
            f"the run goes on after {float(place):.3g} epochs, with {_steps(after)} an epoch, not {_steps(before)}."
        ]

    def begin_epoch(self, trainer: pl.Trainer) -> None:
        """An epoch begins, unless it is the one that the run began or went on with."""
        if len(self.epochs) <= trainer.current_epoch:
            self.epochs.append(expected(steps_of_epoch(trainer, trainer.current_epoch), self.epochs))
        self._batches = _batches(trainer)

    def end_epoch(self, trainer: pl.Trainer) -> bool:
        """The last step of an epoch has been made.

        Returns:
            Whether it had other steps than expected.
        """
        before = self.epochs[-1]
        self._make_up(trainer)
        return self.epochs[-1] != before

    def state_dict(self) -> dict[str, Any]:
        """The epochs as plain values, and the batches of the current one."""
        rows = [{**asdict(epoch), "part": str(epoch.part)} for epoch in self.epochs]
        return {"epochs": rows, "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Used when the fit goes on; empty of runs of before."""
        self.epochs = [Epoch(**{**row, "part": Fraction(row["part"])}) for row in state.get("epochs", [])]
        self._batches = state.get("batches")


def _batches(trainer: pl.Trainer) -> int | None:
    now = trainer.num_training_batches
    return None if now == math.inf else int(now)


def _steps(count: int | None) -> str:
    return "an unknown number of steps" if count is None else f"{count} optimizer step{'s' * (count != 1)}"
