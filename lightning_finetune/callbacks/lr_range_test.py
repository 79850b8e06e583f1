"""The learning rate range test in anybody's Trainer, at the start and at any epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.engine.param_groups import ratios, scale_rates
from lightning_finetune.engine.range_test import FULL_STEPS, Curve, Suggestion, fault, rates_between
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.find import END_LR, START_LR, default_steps, show_curve
from lightning_finetune.run.phased_callback import followed
from lightning_finetune.run.range_test_loop import run_range_test
from lightning_finetune.run.second_hands import refuse_without_rate
from lightning_finetune.run.trainer import is_dev_run, max_epochs, refuse_unsupported, schedulers, the_optimizer
from lightning_finetune.show.report import RangeTest


class LRRangeTest(Callback):
    """Test a range of learning rates before given epochs, record the loss, and suggest a rate.

    Works at the start and in the middle of a fit, also after an unfreezing. It keeps the ratios between parameter
    groups, counts optimizer steps, and starts a short loader again. It does not validate, write checkpoints, or log. It
    restores weights, buffers, optimizer, scaler, random state and the order of the data, so that a run with it equals a
    run without it bit for bit, until it sets the rate.

    Args:
        start_lr: First rate, of the group with the highest rate.
        end_lr: The rates grow towards it; a loss that shoots up ends the test before.
        num_steps: Optimizer steps; None: a hundred, or fewer and larger ones if that is more than four passes over the
            training data, but at least sixteen.
        at_epochs: The epochs, from 0, before which the test runs.
        suggest: Which suggestion sets the rate; see :mod:`lightning_finetune.engine.range_test`.
        apply: Set the rate if the suggestion is reliable: the peak of a cycle or of the module's own scheduler,
            otherwise the optimizer's rate; other groups keep their ratio to the highest.

    Attributes:
        results: Curve with its suggestions, by epoch; kept in the checkpoint, so that a resumed run does not repeat it.

    Raises:
        PhaseError: Rates, steps or epochs with which no test is possible.
    """

    def __init__(
        self,
        start_lr: float = START_LR,
        end_lr: float = END_LR,
        num_steps: int | None = None,
        at_epochs: Sequence[int] = (0,),
        suggest: Suggestion = "elbow",
        apply: bool = True,
    ) -> None:
        check_types(LRRangeTest.__init__, locals(), PhaseError)
        if any(not isinstance(epoch, int) or epoch < 0 for epoch in at_epochs):
            raise PhaseError(f"Expected `at_epochs` to be whole numbers from 0, got {list(at_epochs)}.")
        rates_between(start_lr, end_lr, FULL_STEPS if num_steps is None else num_steps)  # refuses what makes no test
        self.start_lr, self.end_lr, self.num_steps = start_lr, end_lr, num_steps
        self.at_epochs = tuple(at_epochs)
        self.suggest: Suggestion = suggest
        self.apply = apply
        self.results: dict[int, Curve] = {}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_unsupported(trainer, pl_module, type(self).__name__)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse_without_rate(the_optimizer(trainer, type(self).__name__), type(self).__name__)
        limit = max_epochs(trainer)
        late = [epoch for epoch in self.at_epochs if limit is not None and epoch >= limit]
        if late and not is_dev_run(trainer):
            raise PhaseError(f"LRRangeTest(at_epochs={list(self.at_epochs)}): the run ends before epoch {late[0]}.")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # At the first batch, because by then every other callback has made its changes for the epoch.
        epoch = trainer.current_epoch
        if batch_idx == 0 and epoch in self.at_epochs and epoch not in self.results:
            steps = default_steps(trainer) if self.num_steps is None else self.num_steps
            rates, scales = rates_between(self.start_lr, self.end_lr, steps), ratios(trainer.optimizers[0])
            self.results[epoch] = run_range_test(trainer, pl_module, rates, scales, epoch, type(self).__name__)
            self._report(trainer, self.results[epoch])

    def _report(self, trainer: pl.Trainer, curve: Curve) -> None:
        show_curve(trainer, curve, f"lr_range_epoch_{trainer.current_epoch}", curve.suggestions.get(self.suggest))
        shown = ", ".join(f"{name} {lr:.2e}" for name, lr in curve.suggestions.items()) or "none"
        rank_zero_info(f"LRRangeTest: it suggests {shown}.")
        if not self.apply:
            return
        wrong = fault(curve, self.suggest)
        if wrong is not None:
            rank_zero_warn(f"LRRangeTest: the rate stays as it is, because the curve {wrong}.")
            return
        lr = curve.suggestions[self.suggest]
        scale_rates(trainer.optimizers[0], schedulers(trainer), lr)
        for callback in followed(trainer):
            callback.scale_peak(trainer, lr)

    def range_tests(self) -> Iterator[tuple[int, RangeTest]]:
        """What a report tells of each, with the epoch that it came before."""
        for epoch, curve in self.results.items():
            taken = self.apply and fault(curve, self.suggest) is None
            reason = f"the rate was set to {self.suggest}" if taken else "the rate was left as it was"
            chosen = [curve.suggestions[self.suggest]] if taken else []
            yield epoch, RangeTest(f"Before epoch {epoch + 1}", curve, chosen, reason)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"results": {epoch: asdict(curve) for epoch, curve in self.results.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results = {int(epoch): Curve(**curve) for epoch, curve in state_dict["results"].items()}
