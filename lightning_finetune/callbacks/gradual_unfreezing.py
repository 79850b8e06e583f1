"""Gradual unfreezing: train the head first, then let the layers before it follow, group by group."""

from __future__ import annotations

import lightning.pytorch as pl
from torch.optim import LBFGS
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types, warn_unused
from lightning_finetune.engine.phases import Phase, Train, spans
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.run.second_hands import rates_of, sets_rates
from lightning_finetune.run.trainer import the_optimizer

LR_RATIO = 10.0
"""Rate of the head over that of the earliest trained group, if nothing is said."""


class GradualUnfreezing(PhasedCallback):
    """Freeze and unfreeze layer groups at given epochs, with discriminative learning rates.

    Works with any LightningModule that returns one optimizer. Frozen layers have no gradient and make no step, and
    their norm layers do not change. If the optimizer has a single rate, and neither a scheduler nor another callback
    sets rates, the callback spreads this rate geometrically over the trained groups: from a tenth of it at the input to
    all of it at the head (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146).

    Args:
        schedule: What trains from which epoch on: ``"head"``, ``"all"``, or a number of layer groups counted from the
            head. The key 0 is required.
        lr_ratio: Rate of the head over that of the earliest trained group; None leaves the optimizer's rates alone.
        train_norm: Keep training norm layers in frozen groups, as fastai does.
        groups: Name patterns of the layer groups, from the input to the head; see
            :func:`lightning_finetune.engine.layer_groups.layer_groups`.
        unfreeze_all: Also train parameters that the module itself froze; by default they stay frozen.

    Raises:
        PhaseError: A schedule that cannot be followed, or an unfreezing after the end of the run.

    Example::

        Trainer(max_epochs=12, callbacks=[GradualUnfreezing({0: "head", 4: 2, 8: "all"})])
    """

    def __init__(
        self,
        schedule: dict[int, Train],
        lr_ratio: float | None = LR_RATIO,
        train_norm: bool = False,
        groups: list[str] | None = None,
        unfreeze_all: bool = False,
    ) -> None:
        others = {name: value for name, value in locals().items() if name != "schedule"}  # it has words of its own
        check_types(GradualUnfreezing.__init__, others, PhaseError)
        super().__init__(groups, train_norm, unfreeze_all=unfreeze_all)
        if lr_ratio is not None and lr_ratio < 1:
            raise PhaseError(f"Expected `lr_ratio` to be at least 1 or None, got {lr_ratio}.")
        self._spans = spans(schedule, "the unfreezing schedule")
        self.schedule = dict(schedule)
        self.lr_ratio = lr_ratio

    @override
    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._base_lr: float | None = None

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        """One phase from each epoch of the mapping to the next."""
        rates = (
            None if self._base_lr is None or self.lr_ratio is None else (self._base_lr / self.lr_ratio, self._base_lr)
        )
        return [Phase(epochs, train, rates, schedule="constant", moms=None) for epochs, train in self._spans]

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._base_lr = self._own_rate(trainer)
        if self._base_lr is None:
            why = "the optimizer has several rates, or something else sets them"
            warn_unused(type(self).__name__, vars(self), {"lr_ratio": (None, LR_RATIO)}, why)
        super().on_fit_start(trainer, pl_module)

    def _own_rate(self, trainer: pl.Trainer) -> float | None:
        """The optimizer's rate, if it is one for all and nothing else sets it."""
        others = any("lr" in other.governs(trainer) for other in self._others(trainer)) or sets_rates(trainer)
        optimizer = the_optimizer(trainer, type(self).__name__)
        if others or trainer.lr_scheduler_configs or self.lr_ratio is None or isinstance(optimizer, LBFGS):
            return None
        lrs = rates_of(optimizer)
        return next(iter(lrs)) if len(lrs) == 1 else None
