"""The whole practice in one callback: phases of unfreezing, rates and sizes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_finetune.engine.argument_types import check_types, warn_unused
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan, make_plan
from lightning_finetune.engine.range_test import ChosenRate, Curve
from lightning_finetune.engine.rates import DEFAULT_LR, Rates, ends
from lightning_finetune.engine.recipes import RECIPES, RecipeName, Wishes, make_phases
from lightning_finetune.engine.resize import MIN_SIZE, Size
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.artifacts import keeps_files, save_table
from lightning_finetune.run.find import find_lr
from lightning_finetune.run.head_start import new_head, solve_new_head
from lightning_finetune.run.phased_callback import PhasedCallback
from lightning_finetune.run.second_hands import Scheduler
from lightning_finetune.run.trainer import (
    DEFAULT_MAX_EPOCHS,
    is_dev_run,
    max_epochs,
    max_steps,
    scalar_metrics,
    steps_per_epoch,
)
from lightning_finetune.show import terminal
from lightning_finetune.show.report import RangeTest
from lightning_finetune.show.shown_plan import ShownPlan

_SAID_BY_PHASES: dict[str, tuple[object, ...]] = {
    "epochs": (None,),
    "head_epochs": (None, 4),
    "full_epochs": (None, 4),
    "lr": (None, 3e-3),
    "lr_ratio": (None, 10.0),
    "sizes": (None,),
    "find": (False,),
}
"""Arguments that a list of phases takes the place of; the second values are the defaults in saved configurations."""


class FineTune(PhasedCallback):
    """Follow a list of phases: in each, some layer groups train along one cycle at one image size.

    Without arguments the phases follow the measured recipe (``docs/recipe.md``): a new linear head starts as a logistic
    regression on the pretrained features, then all layers train for eight epochs, at rates that rise from the input to
    the head, and norm layers keep their pretrained statistics. Each argument replaces a number of the recipe. You can
    also give the ``phases`` themselves, or ``recipe="lessons"``.

    The callback sets ``max_epochs`` and clips gradients if the Trainer does not. It prints the plan when the fit
    starts, and the phases with their results when it ends.

    Args:
        phases: The phases, in place of the arguments that describe them; or a number of epochs.
        head_epochs: Epochs with only the head training.
        full_epochs: Epochs with all layers training.
        lr: Peak rate of a head alone.
        lr_ratio: That rate over the peak of the epochs in which all layers train.
        sizes: Image sizes in pixels, one round for each; None keeps the data's size.
        find: Let the range test check the rates, and move them if its curve does not allow them. With ``lr`` or
            ``lr_ratio``, and in the lessons' recipe, the test chooses only the lower rate of all layers.
        train_norm: Whether norm layers adapt to the new images, those of frozen groups too, as in fastai. If not,
            pretrained running statistics do not change during the run. None: the recipe decides.
        groups: Name patterns of the layer groups, from the input to the head; see
            :func:`lightning_finetune.engine.layer_groups.layer_groups`.
        unfreeze_all: Also train parameters that the module itself froze; by default they stay frozen.
        min_size: The smallest side of training images that is not an error; the lessons' rule is 64.
        epochs: All epochs of a round, of the head and of all layers.
        scheduler: What to do with a scheduler that the module returns besides its optimizer: ``"replace"`` replaces it
            and says so; ``"refuse"`` is an error.
        recipe: ``"measured"``, or ``"lessons"``: the head trains for four epochs at 3e-3, then all layers for four
            epochs up to 3e-4, always with norm layers; the task should have ``head="concat_pool"``.

    Raises:
        PhaseError: Phases that cannot be followed, or do not fit ``max_epochs`` or ``max_steps``.

    Example::

        Trainer(callbacks=[FineTune([Phase(4, "head", 3e-3), Phase(4, "all", (1e-5, 3e-4))])])
    """

    def __init__(
        self,
        phases: list[Phase] | int | None = None,
        head_epochs: int | None = None,
        full_epochs: int | None = None,
        lr: float | None = None,
        lr_ratio: float | None = None,
        sizes: list[int | Size] | None = None,
        find: bool = False,
        train_norm: bool | None = None,
        groups: list[str] | None = None,
        min_size: int = MIN_SIZE,
        unfreeze_all: bool = False,
        epochs: int | None = None,
        recipe: RecipeName = "measured",
        scheduler: Scheduler = "refuse",
    ) -> None:
        check_types(FineTune.__init__, locals(), PhaseError)
        if isinstance(phases, list):
            warn_unused("FineTune", locals(), _SAID_BY_PHASES, "the phases say it themselves")
        if isinstance(phases, int) and epochs not in (None, phases):
            raise PhaseError(f"Expected one number of epochs, got {phases} and epochs={epochs}.")
        self.recipe = RECIPES[recipe]
        train_norm = self.recipe.train_norm if train_norm is None else train_norm
        super().__init__(groups, train_norm, min_size, unfreeze_all, scheduler)
        epochs = phases if isinstance(phases, int) else epochs
        self.wishes = Wishes(epochs, head_epochs, full_epochs, lr, lr_ratio, sizes, find)
        self.follows_recipe = phases is None or isinstance(phases, int)
        self._phases = make_phases(self.recipe, self.wishes, False) if isinstance(phases, int | None) else phases
        if odd := [phase for phase in self._phases if not isinstance(phase, Phase)]:
            raise PhaseError(f"Expected `phases` to hold phases such as Phase(4, 'head', 3e-3), got {odd[0]!r}.")
        if not self._phases or any(phase.epochs is None for phase in self._phases):
            raise PhaseError(f"Expected every phase of FineTune to say its number of epochs, got {self._phases}.")

    def __repr__(self) -> str:
        return "\n  ".join(["FineTune:", *map(str, self._phases)])

    @override
    def _start_afresh(self) -> None:
        super()._start_afresh()
        self.results: list[dict[str, float]] = []
        self._tests: dict[int, tuple[str, Curve]] = {}
        self._needs_head = False
        self._began_as_lessons = False
        self._clips = False
        self._solved = False

    @override
    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        """The phases of this run, as the module and the Trainer make them."""
        if not self.follows_recipe:
            return self._phases
        recipe = RECIPES["lessons"] if self._began_as_lessons else self.recipe
        return make_phases(recipe, self._wishes_of(trainer), self._needs_head)

    @property
    def found(self) -> dict[int, ChosenRate]:
        """What range tests found, by phase from 0: the rate that the phase has, why, and the curve."""
        found = ((phase, lr) for phase, lr in self.found_rates.items() if phase in self._tests)
        return {phase: ChosenRate(lr, *self._tests[phase]) for phase, lr in found}

    @property
    def given(self) -> list[Phase]:
        """The phases as they were given, with ``"find"`` where a rate is still to be found."""
        return list(self._phases)

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs or 0 for phase in self._phases)

    def plan(self, steps_per_epoch: int | Sequence[int], num_groups: int = 3) -> ShownPlan:
        """The whole schedule before any training: a sequence with one state (phase, rates, momentum, size) per step.

        A notebook shows it as a table; its ``plot()`` draws the learning rates.

        Args:
            steps_per_epoch: Optimizer steps, the same each epoch or one number per epoch.
            num_groups: Layer groups of the model.
        """
        plan = make_plan(self._phases, steps_per_epoch, num_groups=num_groups, train_norm=self.train_norm)
        return ShownPlan.of(plan)

    # -- fitting the run -------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self.follows_recipe:
            self._follow_recipe(trainer, _needs_head(pl_module))
        if not is_dev_run(trainer):
            self._fit_epochs(trainer)

    def phases_for(self, module: pl.LightningModule) -> list[Phase]:
        """The phases of a run of ``module``: a new head that cannot be solved is trained alone first."""
        return make_phases(self.recipe, self.wishes, _needs_head(module)) if self.follows_recipe else self.given

    def _follow_recipe(self, trainer: pl.Trainer, needs_head: bool) -> None:
        """Make the phases for this module; gradients are clipped if the Trainer does not say."""
        self._needs_head = needs_head
        self._phases = self.phases(trainer)
        if trainer.gradient_clip_val is None and self.recipe.clip is not None:
            trainer.gradient_clip_val, self._clips = self.recipe.clip, True

    def _wishes_of(self, trainer: pl.Trainer) -> Wishes:
        """What the user says; where nobody says how many epochs, as many as the Trainer has."""
        given, limit = self.wishes, max_epochs(trainer)
        says = (given.epochs, given.head_epochs, given.full_epochs) != (None, None, None) or given.sizes
        return given if says or limit in (None, DEFAULT_MAX_EPOCHS) else replace(given, epochs=limit)

    def _fit_epochs(self, trainer: pl.Trainer) -> None:
        given = trainer.max_epochs
        if given in (None, -1, DEFAULT_MAX_EPOCHS):
            trainer.fit_loop.max_epochs = self.epochs
            if given != -1:  # which the command, and whoever knows of this, gives
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
        self._ends.check(trainer, self.plan_of_run)
        if self.follows_recipe and self.recipe.solves:
            self._solve_head(trainer, pl_module)
        if trainer.is_global_zero:
            terminal.show_plan(self.plan_of_run, self.grouping.names)
            if keeps_files(trainer):
                save_table(trainer, "plan", *terminal.plan_rows(self.plan_of_run, self.grouping.names))

    @override
    def _let_go(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._clips:
            trainer.gradient_clip_val, self._clips = None, False
        super()._let_go(trainer, module)

    def _solve_head(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        begin, count = time.monotonic(), solve_new_head(trainer, module)
        self._solved = count is not None
        if self._solved:
            rank_zero_info(
                f"FineTune: the head starts where it fits the pretrained features of {count} training images best "
                f"({time.monotonic() - begin:.1f} s)."
            )

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        phase = self.plan_of_run.phase_of(trainer.current_epoch)
        if self.plan_of_run.phases[phase].needs_find:
            rank_zero_info(f"FineTune: range test before phase {phase + 1}.")
            layout, seed, rule = self.grouping.layout, self.seed or 0, self.rule(self._phases[phase])
            solved = self._solved and phase == 0
            chosen = find_lr(trainer, pl_module, self.plan_of_run, phase, layout, seed, rule, solved)
            self._tests[phase] = chosen.reason, chosen.curve
            self.set_lr(trainer, phase, chosen.lr)
            rank_zero_info(
                f"FineTune: phase {phase + 1} trains at {terminal.rates(self.plan_of_run, phase)}: {chosen.reason}."
            )

    def rule(self, phase: Phase) -> tuple[float, float] | None:
        """The rates that the measured recipe would take for all layers in ``phase`` without a range test.

        None where the user says the upper one, by ``phases``, ``lr`` or ``lr_ratio``, and in the lessons' recipe.
        """
        given = not self.follows_recipe or self.wishes.lr is not None or self.wishes.lr_ratio is not None
        if given or not self.recipe.solves or self._began_as_lessons:
            return None
        high = (phase.rates or Rates((DEFAULT_LR,))).high(unfrozen=True)
        above = self.recipe.lr_ratio if self._needs_head else 1.0  # a random head keeps its own rate
        return high / above / self.recipe.spread, high

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        phase = self.plan_of_run.phase_of(trainer.current_epoch)
        unknown: list[dict[str, float]] = [{}] * phase  # a run that resumes past the end of an epoch has not seen it
        self.results = [*[*self.results, *unknown][:phase], scalar_metrics(trainer)]

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.results and self.current_plan is not None:  # None: the run had ended before
            terminal.show_results(self.plan_of_run, self.grouping.names, self.results, self.found)
            if keeps_files(trainer):
                save_table(trainer, "phases", *terminal.result_rows(self.plan_of_run, self.results))

    def range_tests(self) -> Iterator[tuple[int, RangeTest]]:
        """What a report tells of each, with the epoch that it came before."""
        if self.current_plan is None:
            return
        for phase, chosen in self.found.items():
            test = RangeTest(f"Before phase {phase + 1}", chosen.curve, ends(chosen.lr), chosen.reason, phase)
            yield self.current_plan.first_epoch(phase), test

    @override
    def state_dict(self) -> dict[str, Any]:
        tests = {phase: {"reason": reason, "curve": asdict(curve)} for phase, (reason, curve) in self._tests.items()}
        return {**super().state_dict(), "results": self.results, "found": tests, "needs_head": self._needs_head}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.results = list(state_dict["results"])
        self._needs_head = state_dict.get("needs_head", True)
        self._began_as_lessons = "needs_head" not in state_dict  # there was no other recipe
        tests = state_dict["found"].items()
        self._tests = {int(phase): (value["reason"], Curve(**value["curve"])) for phase, value in tests}


def _needs_head(module: pl.LightningModule) -> bool:
    """Whether the head of ``module`` has random weights that cannot be solved; so has that of one that does not say."""
    return bool(getattr(module, "head_is_new", True)) and new_head(module) is None
