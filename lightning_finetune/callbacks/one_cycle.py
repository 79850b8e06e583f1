"""The one-cycle policy over a run, or over spans of it, in anybody's Trainer."""

from __future__ import annotations

import lightning.pytorch as pl
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.rates import DEFAULT_LR
from lightning_finetune.engine.schedules import Moms, Schedule
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.run.second_hands import Scheduler
from lightning_finetune.run.trainer import is_dev_run


class OneCycle(PhasedCallback):
    """Raise the learning rate to a peak and let it fall, and momentum the other way.

    The policy of Smith 2018 (https://arxiv.org/abs/1803.09820) with fastai's shape and defaults. The rate at step
    ``i`` of ``n`` is a closed form of ``i / n``, in optimizer steps, so accumulation and resuming work without a state.
    Works with any LightningModule that returns one optimizer and no scheduler.

    Args:
        max_lr: Peak rate of every layer group; or ``(low, high)``, spread geometrically from the input to the head; or
            ``(None, high)``, a tenth for all but the head; or a list with one rate per layer group.
        div: Peak over first rate.
        div_final: Peak over last rate.
        pct_start: Share of the cycle before the peak; None is the schedule's own: 0.25, and 0.75 for ``flat_cos``.
        moms: Momentum (Adam's first beta) at the start, the peak and the end; None leaves it alone.
        epochs: Lengths of the cycles, one after the other; None is one cycle over the run.
        schedule: ``"one_cycle"``, or ``"flat_cos"``: flat, then half a cosine; or a function of progress.
        groups: Name patterns of the layer groups, from the input to the head; see
            :func:`lightning_finetune.engine.layer_groups.layer_groups`.
        scheduler: What to do with a scheduler that the module returns besides its optimizer: ``"replace"`` replaces it
            and says so; ``"refuse"`` is an error.

    Raises:
        PhaseError: Rates or spans that cannot be followed.

    Example::

        Trainer(max_epochs=4, callbacks=[OneCycle(max_lr=(1e-5, 3e-4))])
    """

    def __init__(
        self,
        max_lr: float | tuple[float | None, float] | list[float] = DEFAULT_LR,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float | None = None,
        moms: Moms | None = (0.95, 0.85, 0.95),
        epochs: list[int] | None = None,
        schedule: Schedule = "one_cycle",
        groups: list[str] | None = None,
        scheduler: Scheduler = "refuse",
    ) -> None:
        check_types(OneCycle.__init__, locals(), PhaseError)
        super().__init__(groups, scheduler=scheduler)
        self.epochs = epochs
        spans: list[int | None] = list(epochs) if epochs else [None]
        self._phases = [Phase(count, None, max_lr, None, schedule, pct_start, div, div_final, moms) for count in spans]

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        planned = sum(self.epochs or [])
        if stage == "fit" and self.epochs and trainer.max_epochs != planned and not is_dev_run(trainer):
            raise PhaseError(
                f"Expected the spans of OneCycle to fill the run: epochs={self.epochs} are {planned}, but "
                f"max_epochs={trainer.max_epochs}."
            )

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        """One phase per span, with rates alone."""
        return self._phases
