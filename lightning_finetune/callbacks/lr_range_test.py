"""The learning rate range test in anybody's Trainer, at the start and at any epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_finetune.engine.range_test import Curve, Suggestion, fault, suggest, sweep_rates
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.find import show_curve
from lightning_finetune.run.phased import PhasedCallback
from lightning_finetune.run.range_test_loop import run_sweep
from lightning_finetune.run.rates import ratios, scale_rates
from lightning_finetune.run.trainer import callbacks, is_dev_run, max_epochs, refuse_unsupported, the_optimizer
from lightning_finetune.show.report import RangeTest

SUGGESTIONS: tuple[Suggestion, ...] = ("steep", "valley", "slide", "minimum", "elbow")


class LRRangeTest(Callback):
    """Sweep the learning rate before given epochs, record the loss, and suggest a rate.

    Works at the start and in the middle of a fit, also after an unfreezing. Keeps the ratios between parameter groups,
    counts optimizer steps, begins a small loader again, never validates, writes no checkpoint, and is silent in the
    user's logs. Weights, buffers, optimizer, scaler, random state and the order of the data are put back, so that a
    run with it equals a run without it bit for bit, until it sets the rate.

    Args:
        start_lr: First rate, of the group with the highest rate.
        end_lr: The rates grow towards it; a loss that shoots up ends the sweep before.
        num_steps: Optimizer steps.
        at_epochs: Before which epochs, from 0.
        suggest: Which suggestion sets the rate; see :mod:`lightning_finetune.engine.range_test`.
        apply: Set the rate, if the suggestion can be trusted: the peak of a cycle or of the module's own scheduler,
            else the optimizer's rate; other groups keep their ratio to the highest.

    Attributes:
        results: Curve with its suggestions, by epoch; kept in the checkpoint, so that a resumed run does not repeat it.

    Raises:
        PhaseError: Rates, steps or epochs that make no sweep.
    """

    def __init__(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_steps: int = 100,
        at_epochs: Sequence[int] = (0,),
        suggest: Suggestion = "steep",
        apply: bool = True,
    ) -> None:
        if suggest not in SUGGESTIONS:
            raise PhaseError(f"Expected `suggest` to be one of {list(SUGGESTIONS)}, got {suggest!r}.")
        if any(not isinstance(epoch, int) or epoch < 0 for epoch in at_epochs):
            raise PhaseError(f"Expected `at_epochs` to be whole numbers from 0, got {list(at_epochs)}.")
        self.rates = sweep_rates(start_lr, end_lr, num_steps)
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
        the_optimizer(trainer, type(self).__name__)
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
            rank_zero_info(f"LRRangeTest: sweeping the learning rate over up to {len(self.rates)} steps.")
            optimizer = trainer.optimizers[0]
            curve = run_sweep(trainer, pl_module, self.rates, ratios(optimizer), seed=epoch)
            self.results[epoch] = replace(curve, suggestions=suggest(curve, len(self.rates)))
            self._report(trainer, self.results[epoch])

    def _report(self, trainer: pl.Trainer, curve: Curve) -> None:
        show_curve(trainer, curve, f"lr_range_epoch_{trainer.current_epoch}", curve.suggestions.get(self.suggest))
        shown = ", ".join(f"{name} {lr:.2e}" for name, lr in curve.suggestions.items()) or "none"
        rank_zero_info(f"LRRangeTest: {len(curve.lrs)} steps; suggestions: {shown}.")
        if not self.apply:
            return
        wrong = fault(curve, self.suggest)
        if wrong is not None:
            rank_zero_warn(f"LRRangeTest: the rate stays as it is, because the curve {wrong}.")
            return
        lr = curve.suggestions[self.suggest]
        scale_rates(trainer, lr)
        for callback in callbacks(trainer):
            if isinstance(callback, PhasedCallback):
                callback.scale_peak(trainer, lr)

    def range_tests(self) -> Iterator[tuple[int, RangeTest]]:
        """What a report tells of each, with the epoch that it came before."""
        for epoch, curve in self.results.items():
            taken = self.apply and fault(curve, self.suggest) is None
            reason = f"the rate was set to {self.suggest}" if taken else "the rate was left as it was"
            chosen = [curve.suggestions[self.suggest]] if taken else []
            yield epoch, RangeTest(f"Before epoch {epoch}", curve, chosen, reason)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"results": {epoch: asdict(curve) for epoch, curve in self.results.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results = {int(epoch): Curve(**curve) for epoch, curve in state_dict["results"].items()}
