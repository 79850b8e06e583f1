"""The whole practice in one callback: phases of unfreezing, rates and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.engine.phases import DEFAULT_LR, Phase, standard_phases
from lightning_finetune.engine.plan import Plan, make_plan
from lightning_finetune.engine.range_test import Curve, Found
from lightning_finetune.engine.resize import MIN_SIZE, Size
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.artifacts import save_table
from lightning_finetune.run.find import find_lr
from lightning_finetune.run.phased import PhasedCallback
from lightning_finetune.run.trainer import DEFAULT_MAX_EPOCHS, is_dev_run, max_steps, scalar_metrics, steps_per_epoch
from lightning_finetune.show import tables


class FineTune(PhasedCallback):
    """Follow a list of phases: in each, some layer groups train along one cycle at one image size.

    Give ``phases``, or the few numbers from which the lessons' recipe is made: the head at ``lr``, then all layers at
    rates that spread from the input to the head, up to ``lr / lr_ratio``; again at each larger size.

    Sets ``max_epochs`` when the user did not. Prints the plan when the fit starts, and the phases with their results
    when it ends.

    Args:
        phases: The phases; excludes the other ways to describe them.
        head_epochs: Epochs with only the head training.
        full_epochs: Epochs with all layers training.
        lr: Peak rate of the first head phase.
        lr_ratio: Peak of a head phase over peak of the full phase that follows it.
        sizes: Image sizes in pixels, one round of both phases for each; None keeps the data's size.
        find: Let the range test choose the head's rate and the lower end of the full phase's.
        train_norm: Keep training norm layers in frozen groups, as fastai does.
        groups: Name patterns of the layer groups, from the input to the head; see
            :func:`lightning_finetune.engine.layer_groups.layer_groups`.
        unfreeze_all: Train also what the module's author froze; else it is in no layer group and stays as it is.
        min_size: The smallest side of training images that is not an error; the lessons' rule is 64.

    Raises:
        PhaseError: Phases that cannot be followed, or do not fit ``max_epochs`` or ``max_steps``.

    Example::

        Trainer(callbacks=[FineTune([Phase(4, "head", 3e-3), Phase(4, "all", (1e-5, 3e-4))])])
    """

    def __init__(
        self,
        phases: list[Phase] | None = None,
        head_epochs: int = 4,
        full_epochs: int = 4,
        lr: float = DEFAULT_LR,
        lr_ratio: float = 10.0,
        sizes: list[int | Size] | None = None,
        find: bool = False,
        train_norm: bool = False,
        groups: list[str] | None = None,
        min_size: int = MIN_SIZE,
        unfreeze_all: bool = False,
    ) -> None:
        super().__init__(groups, train_norm, min_size, unfreeze_all)
        self._phases = (
            phases if phases is not None else standard_phases(head_epochs, full_epochs, lr, lr_ratio, sizes, find)
        )
        if not self._phases or any(phase.epochs is None for phase in self._phases):
            raise PhaseError(f"Expected every phase of FineTune to say its number of epochs, got {self._phases}.")

    @override
    def _start_afresh(self) -> None:
        super()._start_afresh()
        self.results: list[dict[str, float]] = []
        self.found: dict[int, Found] = {}

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        return self._phases

    @property
    def given(self) -> list[Phase]:
        """The phases as they were given, with ``"find"`` where a rate is still to be found."""
        return list(self._phases)

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs or 0 for phase in self._phases)

    def plan(self, steps_per_epoch: int | Sequence[int], num_groups: int = 3) -> Plan:
        """The whole schedule before any training: a sequence with one state (phase, rates, momentum, size) a step.

        Args:
            steps_per_epoch: Optimizer steps, the same each epoch or one number an epoch.
            num_groups: Layer groups of the model.
        """
        return make_plan(self._phases, steps_per_epoch, num_groups=num_groups, train_norm=self.train_norm)

    # -- fitting the run -------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not is_dev_run(trainer):
            self._fit_epochs(trainer)

    def _fit_epochs(self, trainer: pl.Trainer) -> None:
        given = trainer.max_epochs
        if given in (None, -1, DEFAULT_MAX_EPOCHS):
            trainer.fit_loop.max_epochs = self.epochs
            rank_zero_info(f"FineTune: max_epochs set to {self.epochs}, the sum of its phases.")
        elif given != self.epochs:
            raise PhaseError(
                f"The phases of FineTune last {self.epochs} epochs "
                f"({' + '.join(str(phase.epochs) for phase in self._phases)}), but max_epochs={given}. "
                "Leave max_epochs out, or make them equal."
            )

    @override
    def _make_plan(self, trainer: pl.Trainer) -> Plan:
        plan = super()._make_plan(trainer)
        limit = max_steps(trainer)
        needed = steps_per_epoch(trainer, self.epochs)
        if limit is not None and needed is not None and limit < sum(needed) and not is_dev_run(trainer):
            raise PhaseError(
                f"The phases of FineTune take {sum(needed)} optimizer steps, but max_steps={limit} ends the run "
                "before. Leave max_steps out, or shorten the phases."
            )
        return plan

    # -- what it shows ---------------------------------------------------------------------------------------------

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            tables.show_plan(self.plan_of_run, self.grouping.groups)
            save_table(trainer, "plan", *tables.plan_rows(self.plan_of_run, self.grouping.groups))

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        phase = self.plan_of_run.phase_of(trainer.current_epoch)
        if self.plan_of_run.phases[phase].needs_find:
            rank_zero_info(f"FineTune: range test before phase {phase + 1}.")
            found = find_lr(trainer, pl_module, self.plan_of_run, phase, self.grouping.layout, self._seed or 0)
            self.found[phase] = found
            self.set_lr(trainer, phase, found.lr)
            rank_zero_info(
                f"FineTune: phase {phase + 1} trains at {tables.rates(self.plan_of_run, phase)}: {found.reason}."
            )

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        phase = self.plan_of_run.phase_of(trainer.current_epoch)
        unknown: list[dict[str, float]] = [{}] * phase  # a run that resumes past the end of an epoch has not seen it
        self.results = [*[*self.results, *unknown][:phase], scalar_metrics(trainer)]

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.results and self._plan is not None:  # None: the run had ended before
            tables.show_results(self.plan_of_run, self.grouping.groups, self.results, self.found)

    @override
    def state_dict(self) -> dict[str, Any]:
        found = {phase: asdict(value) for phase, value in self.found.items()}
        return {**super().state_dict(), "results": self.results, "found": found}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.results = list(state_dict["results"])
        found = state_dict["found"].items()
        self.found = {int(phase): Found(**{**value, "curve": Curve(**value["curve"])}) for phase, value in found}
