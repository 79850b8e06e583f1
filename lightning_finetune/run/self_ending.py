"""Phases that end by themselves: when, and what they leave to the next: the state of the best validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_finetune.engine.nested import map_nested
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.either_lightning import is_a
from lightning_finetune.run.grouping import Grouping
from lightning_finetune.run.trainer import callbacks


class PhaseEnds:
    """Watches the metric of the phase that is on.

    Attributes:
        ended: How many epochs phases had, by index, that ended before their limit; kept like a found rate.
    """

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self._patience = Patience(-1)
        self._best: dict[str, Any] | None = None

    def check(self, trainer: pl.Trainer, plan: Plan) -> None:
        """Refuse a phase that waits for a metric in a run without validation.

        Raises:
            PhaseError: Names the phase.
        """
        for phase, spec in enumerate(plan.phases):
            if spec.until is not None and not trainer.enable_validation:
                raise PhaseError(
                    f"Phase {phase + 1} waits for {spec.until!r} (`until`), but the run has no validation. Give it "
                    "validation data and a `validation_step`, or leave `until` out."
                )

    def forget_others(self, phases: Sequence[Phase]) -> None:
        """A phase that a resumed run gives without ``until`` has the epochs that it says."""
        for phase in [*self.ended]:
            if phase >= len(phases) or phases[phase].until is None:
                del self.ended[phase]

    def see(self, trainer: pl.Trainer, module: pl.LightningModule, grouping: Grouping, plan: Plan) -> bool:
        """After a validation: whether the phase that is on will end before its limit."""
        epoch = trainer.current_epoch
        phase = plan.phase_of(epoch)
        spec = plan.phases[phase]
        if spec.until is None:
            return False
        if self._patience.phase != phase:
            self._patience, self._best = Patience(phase), None
        if self._patience.see(_metric(trainer, spec.until), spec) and spec.restore_best:
            self._best = _state(trainer, module, grouping)
        done = epoch - plan.first_epoch(phase) + 1
        length = length_after(spec, done)
        if phase in self.ended or self._patience.waited < spec.patience or length is None:
            return False
        self.ended[phase] = length
        rank_zero_info(
            f"Phase {phase + 1} ends after {length} of at most {plan.limit(phase)} epochs: {spec.until} has not "
            f"improved for {spec.patience} validation{'s' * (spec.patience != 1)}; its best is {self._patience.best}."
        )
        return True

    def restore(self, trainer: pl.Trainer, module: pl.LightningModule, grouping: Grouping, ended: int) -> bool:
        """Whether the best state of phase ``ended`` was kept; it is put back, once."""
        if self._best is None or self._patience.phase > ended:
            return False
        best, self._best = self._best, None
        _put_back(trainer, module, grouping, best)
        rank_zero_info(f"Phase {self._patience.phase + 1}: weights of its best validation ({self._patience.best}).")
        return True

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the best state is as large as weights and optimizer."""
        patience = self._patience
        seen = {"phase": patience.phase, "metric": patience.best, "waited": patience.waited}
        return {"ended": dict(self.ended), **seen, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Used when the fit goes on; empty of runs of before."""
        self.ended = {int(phase): epochs for phase, epochs in state.get("ended", {}).items()}
        self._patience = Patience(state.get("phase", -1), state.get("metric"), state.get("waited", 0))
        self._best = state.get("best")


def _metric(trainer: pl.Trainer, name: str) -> float:
    """What the validation logged under ``name``: one value for all processes."""
    logged: dict[str, Tensor] = dict(trainer.callback_metrics)
    if name not in logged:
        raise PhaseError(
            f"Expected the validation to log {name!r}, which a phase waits for (`until`); it logs {sorted(logged)}."
        )
    value = logged[name].detach().double()
    return float(trainer.strategy.reduce(value, reduce_op="mean"))


def _state(trainer: pl.Trainer, module: pl.LightningModule, grouping: Grouping) -> dict[str, Any]:
    """Copies of weights, buffers, optimizer and averaged weights, in the memory of the host."""
    state: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    for callback in callbacks(trainer):
        if is_a(callback, WeightAveraging):
            callback.on_save_checkpoint(trainer, module, state)
    state["optimizer"] = grouping.state()
    copied: dict[str, Any] = map_nested(_copy, state)
    return copied


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _put_back(trainer: pl.Trainer, module: pl.LightningModule, grouping: Grouping, state: dict[str, Any]) -> None:
    averages = [callback for callback in callbacks(trainer) if is_a(callback, WeightAveraging)]
    with torch.no_grad():
        module.load_state_dict(state["state_dict"])
        for callback in averages:  # which keep the current weights apart
            callback.on_load_checkpoint(trainer, module, state)
    grouping.load_state(state["optimizer"])


@dataclass
class Patience:
    """What the validations of a phase showed of its metric.

    Attributes:
        phase: Index of the phase.
        best: The best value so far; None before the first that is a number.
        waited: Validations since then.
    """

    phase: int
    best: float | None = None
    waited: int = 0

    def see(self, value: float, spec: Phase) -> bool:
        """Whether ``value`` is better than all before it, by more than ``min_delta``; what is not a number is not."""
        gain = math.inf if self.best is None else self.best - value if spec.mode == "min" else value - self.best
        better = not math.isnan(value) and gain > spec.min_delta
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return better


def length_after(spec: Phase, done: int) -> int | None:
    """How many epochs a phase has whose patience has run out after ``done`` of them; None: it ends as it would have.

    A schedule whose fall takes a stated number of epochs falls then, unless it falls already.
    """
    limit, falls = spec.epochs or done, spec.falls or 0
    return done + falls if done + falls < limit else None
