"""What every callback that follows phases shares: it asks the plan what holds now, and makes it so."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_finetune.engine.allocator import keep_freed
from lightning_finetune.engine.param_groups import forget_curvature
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan, State, make_plan
from lightning_finetune.engine.rates import LR
from lightning_finetune.engine.resize import MIN_SIZE
from lightning_finetune.errors import PhaseError, UnsupportedError, explain
from lightning_finetune.run.checkpoint_file import write_safely
from lightning_finetune.run.grouping import Grouping
from lightning_finetune.run.loader_order import LoaderOrder, knows_items
from lightning_finetune.run.progress import Progress
from lightning_finetune.run.range_test_loop import lends_batches
from lightning_finetune.run.second_hands import (
    Scheduler,
    be_the_only_hand,
    refuse_finetuning,
    warn_of_early_end,
    warn_of_early_stopping,
)
from lightning_finetune.run.self_ending import PhaseEnds
from lightning_finetune.run.sharded import restore_what_was_stepped
from lightning_finetune.run.sizes import Resizer
from lightning_finetune.run.trainer import (
    accumulation,
    begin_epoch_as_usual,
    callbacks,
    is_dev_run,
    max_epochs,
    max_steps,
    refuse_unsupported,
    reseed,
    resumed_place,
    run_seed,
    shards,
    steps_per_epoch,
    the_optimizer,
    validate_what_was_not,
)


class PhasedCallback(Callback):
    """Applies a list of phases to a run.

    Each subclass says which phases; what a phase leaves at None is left alone, so that callbacks compose as long as no
    two govern the same thing. Nothing is kept but the seed and what a range test found: where the run is says
    everything else, so a resumed run continues as if it had not stopped.
    """

    def __init__(
        self,
        groups: list[str] | None = None,
        train_norm: bool = False,
        min_size: int = MIN_SIZE,
        unfreeze_all: bool = False,
        scheduler: Scheduler = "refuse",
    ) -> None:
        self.groups = groups
        self.train_norm = train_norm
        self.min_size = min_size
        self.unfreeze_all = unfreeze_all
        self.scheduler = scheduler
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Keep nothing of an earlier run, so that a callback does in a second fit what a new one does."""
        self.seed: int | None = None
        self._world_size: int | None = None
        self.found_rates: dict[int, LR] = {}
        self._found_for: dict[int, tuple[Any, Any]] = {}
        self._progress = Progress()
        self._ends = PhaseEnds()
        self._limit: int | None = None
        self._held_norms: list[str] | None = None
        self._checkpoint: dict[str, Any] | None = None
        self.current_plan: Plan | None = None
        self.current_grouping: Grouping | None = None
        self.resizer: Resizer | None = None
        self._order = LoaderOrder()
        self._warned = self._entered = False
        self._doubts: Generator[str | None] | None = None  # within a run alone: no process can be given it

    # -- what a subclass says --------------------------------------------------------------------------------------

    def treat_module_like(self, other: PhasedCallback) -> None:
        """Group, freeze and hold the layers, and treat a scheduler, as ``other`` would."""
        self.groups, self.train_norm, self.unfreeze_all = other.groups, other.train_norm, other.unfreeze_all
        self.scheduler = other.scheduler

    def phases(self, trainer: pl.Trainer) -> list[Phase]:
        """The phases of this run; the last may be open."""
        raise NotImplementedError

    def governs(self, trainer: pl.Trainer) -> set[str]:
        """Which of ``train``, ``lr`` and ``size`` this callback sets."""
        return {
            name
            for name in ("train", "lr", "size")
            for phase in self.phases(trainer)
            if getattr(phase, name) is not None
        }

    # -- before the run --------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._start_afresh()
            refuse_unsupported(trainer, pl_module, type(self).__name__)
            if self.governs(trainer) & {"train", "lr"}:
                refuse_finetuning(trainer, type(self).__name__)
            write_safely(trainer)
            warn_of_early_stopping(trainer, self.phases(trainer))

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if shards(trainer):  # Lightning restores it only now
            restore_what_was_stepped(trainer, pl_module)
        else:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Group the layers, and split the optimizer."""
        name = type(self).__name__
        optimizer = the_optimizer(trainer, name)
        self._check_conflicts(trainer)
        sets_rates = "lr" in self.governs(trainer)
        if sets_rates:
            be_the_only_hand(trainer, optimizer, name, self.scheduler)
        self.current_grouping = Grouping(
            pl_module,
            optimizer,
            self._patterns(trainer),
            splits=sets_rates,
            held=self._held_norms,
            unfreeze_all=any(callback.unfreeze_all for callback in (self, *self._others(trainer))),
        )
        self._held_norms = self.current_grouping.held
        self.current_grouping.restore(self._checkpoint)
        self._checkpoint = None
        self._limit = max_epochs(trainer)  # before a phase that ends by itself makes the run shorter
        if self.seed is None:
            self.seed = run_seed(trainer)
        reseed(trainer.strategy.root_device, self.seed)  # workers of the first epoch begin before the epoch does

    def _patterns(self, trainer: pl.Trainer) -> list[str] | None:
        """The user's patterns, given to whichever of the callbacks."""
        given = [callback.groups for callback in (self, *self._others(trainer)) if callback.groups is not None]
        if any(patterns != given[0] for patterns in given):
            raise PhaseError(f"Expected one list of `groups` for all callbacks, got {given}.")
        return given[0] if given else None

    def _others(self, trainer: pl.Trainer) -> list[PhasedCallback]:
        return [other for other in followed(trainer) if other is not self]

    def _check_conflicts(self, trainer: pl.Trainer) -> None:
        mine = self.governs(trainer)
        for other in self._others(trainer):
            shared = mine & other.governs(trainer)
            if shared:
                raise PhaseError(
                    f"{type(self).__name__} and {type(other).__name__} both set {sorted(shared)}. Drop one of them."
                )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if shards(trainer):
            self._checkpoint = None  # its optimizer state is loaded, in the module's groups
            self._begin(trainer, pl_module)
        begin_epoch_as_usual(trainer)
        if trainer.strategy.root_device.type == "cpu":
            keep_freed()
        self._check_world_size(trainer)
        for change in self._progress.go_on(trainer, moves=self is followed(trainer)[0]):
            rank_zero_info(f"{type(self).__name__}: {change}")
        self._forget_what_changed(trainer)
        self._replan(trainer)
        self._say_what_is_odd()
        self._prepare_sizes(trainer, pl_module)
        # The module's own `on_train_start` follows: what it freezes there must not look like ours.
        self._enter(trainer, freezes=False)
        if self is followed(trainer)[-1]:
            self._order.go_on(trainer, partial(self._seed_fetch, trainer))

    def _check_world_size(self, trainer: pl.Trainer) -> None:
        """Say that the run goes on with another number of processes; refuse it where images would be seen twice."""
        before, self._world_size = self._world_size, trainer.world_size
        if before in (None, trainer.world_size):
            return
        if resumed_place(trainer) == "within" and not knows_items(trainer):
            raise UnsupportedError(
                f"The checkpoint is from within an epoch of {before} processes, and this run has {trainer.world_size}, "
                "which share the rest of the epoch in another way: images would be seen twice, or not at all. Go on "
                f"with {before}, or from a checkpoint of the end of an epoch."
            )
        rank_zero_info(
            f"{type(self).__name__}: the run goes on with {trainer.world_size} processes, not {before}: each image is "
            "seen once an epoch all the same, but the weights will not be those of a run that kept its processes, to "
            "the bit."
        )

    def _forget_what_changed(self, trainer: pl.Trainer) -> None:
        """Drop what was found for phases that a resumed run gives otherwise: the user's word is the later one."""
        phases = self.phases(trainer)
        self._ends.forget_others(phases)
        for number in [*self.found_rates]:
            now = next(((phase.train, phase.lr) for phase in phases[number : number + 1]), None)
            if now is None or self._found_for.get(number, now) != now:
                del self.found_rates[number]
                name = type(self).__name__
                rank_zero_info(f"{name}: phase {number + 1} is another now, without the rate that was found for it.")

    def _say_what_is_odd(self) -> None:
        """Name what is left alone, and warn of what is probably not meant."""
        trained = {self.plan_of_run.trained(phase) for phase in range(len(self.plan_of_run.phases))} - {None}
        if not trained:
            return
        for sentence in self.grouping.left_alone():
            rank_zero_info(f"{type(self).__name__}: {sentence}")
        if warning := self.grouping.check(self.plan_of_run):
            rank_zero_warn(warning)
        if trained != {self.plan_of_run.num_groups}:
            self._doubts = self.grouping.doubts()
            self._say_doubt()

    def _say_doubt(self) -> None:
        if self._doubts is not None and (doubt := next(self._doubts, None)):
            rank_zero_warn(doubt)

    def _prepare_sizes(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        sizes = {phase.size for phase in self.plan_of_run.phases if phase.size is not None}
        if sizes:
            self.resizer = Resizer(trainer, module, self.min_size, sizes)
            if lends_batches(trainer):
                self.resizer.dry_run(trainer, self.grouping.layers)

    def _make_plan(self, trainer: pl.Trainer) -> Plan:
        phases = self.phases(trainer)
        self.grouping.check_counts(phases)
        known = sum(phase.epochs or 0 for phase in phases)
        limit = self._limit
        if is_dev_run(trainer):
            limit = known + 1
        plan = make_plan(
            phases,
            steps_per_epoch(trainer, max(limit or 0, known + 1)),
            max_epochs=limit,
            max_steps=None if is_dev_run(trainer) else max_steps(trainer),
            num_groups=len(self.grouping.groups),
            num_head=self.grouping.num_head,
            train_norm=self.train_norm,
            past=self._progress.epochs,
            ended=self._ends.ended,
        )
        for phase, lr in self.found_rates.items():
            plan = plan.with_lr(phase, lr)
        return plan

    def _replan(self, trainer: pl.Trainer) -> None:
        """What is known now: real lengths of epochs and phases, found rates; the run ends when the last phase does."""
        self.current_plan = plan = self._make_plan(trainer)
        if self._ends.ended:
            trainer.fit_loop.max_epochs = sum(phase.epochs or 0 for phase in plan.phases)

    @property
    def grouping(self) -> Grouping:
        """Layer groups and parameter groups of the current run.

        Raises:
            PhaseError: No run has begun.
        """
        if self.current_grouping is None:
            raise PhaseError(f"{type(self).__name__} has no layer groups yet: they are made when the fit starts.")
        return self.current_grouping

    @property
    def plan_of_run(self) -> Plan:
        """The resolved plan of the current run.

        Raises:
            PhaseError: No run has begun.
        """
        if self.current_plan is None:
            raise PhaseError(f"{type(self).__name__} has no plan yet: it is made when training starts.")
        return self.current_plan

    def set_lr(self, trainer: pl.Trainer, phase: int, lr: LR) -> None:
        """Give ``phase`` the rate that a range test found, from the next step on; kept in the checkpoint."""
        self.found_rates[phase] = lr
        asked = self.phases(trainer)[phase]
        self._found_for[phase] = asked.train, asked.lr
        self.current_plan = self.plan_of_run.with_lr(phase, lr)
        self.grouping.set_rates(self._state(trainer))

    def scale_peak(self, trainer: pl.Trainer, peak: float) -> None:
        """Let the current phase, if it sets rates, peak at ``peak``; ratios between groups stay."""
        phase = self.plan_of_run.phase_of(trainer.current_epoch)
        rates = self.plan_of_run.phases[phase].rates
        if rates is not None:
            self.set_lr(trainer, phase, rates.scaled(peak))

    # -- during the run --------------------------------------------------------------------------------------------

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.begin_epoch(trainer)
        self._replan(trainer)
        self._restore_best(trainer, pl_module, self.plan_of_run.phase_of(trainer.current_epoch) - 1)
        self._enter(trainer)
        if trainer.current_epoch == self.plan_of_run.first_epoch(self._state(trainer).phase) > 0:
            forget_curvature(self.grouping.optimizer)
        self._reseed(trainer, -1)
        self._order.begin(trainer)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.resizer is not None and self.resizer.untried:  # no batch could be had before the first
            self.resizer.dry_run(trainer, self.grouping.layers, batch)
            self._entered = False
        if not self._entered:  # in a run that resumes within an epoch, no start of the epoch came before
            self._enter(trainer)
        # Lightning's GradientAccumulationScheduler does not set it in a run that resumes within an epoch, and refuses
        # in its on_train_start what was set before.
        trainer.accumulate_grad_batches = accumulation(trainer, trainer.current_epoch)
        self._reseed(trainer, batch_idx)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        self._say_doubt()
        if not loss.requires_grad and (trained := self._state(trainer).trained) is not None:
            self.grouping.refuse_loss(trained)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say_doubt()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._warned and (changed := self.grouping.changed_rate()):
            self._warned = True
            rank_zero_warn(
                f"{type(self).__name__} set a learning rate of {changed[1]:.3g}, and somebody changed it to "
                f"{changed[0]:.3g}: a hook of {type(pl_module).__name__}, such as `optimizer_step`, or another "
                "callback. Let one of them set it."
            )
        if trainer.is_last_batch:
            self._end_epoch(trainer)
        # The next step's rates are set here, so that a monitor that runs before this callback logs the right ones.
        self.grouping.set_rates(self._state(trainer))
        self._seed_fetch(trainer, batch_idx + 1)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.current_plan is not None and trainer.state.fn == TrainerFn.FITTING:
            if self._ends.see(trainer, pl_module, self.grouping, self.current_plan):
                self._replan(trainer)
            self._seed_fetch(trainer, trainer.fit_loop.batch_idx + 1)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_epoch(trainer)  # a hook of the module may have ended it before its last batch
        epoch, plan = trainer.current_epoch, self.plan_of_run
        if epoch + 1 == trainer.max_epochs or plan.phase_of(epoch) != plan.phase_of(epoch + 1):
            self._restore_best(trainer, pl_module, plan.phase_of(epoch))

    def _restore_best(self, trainer: pl.Trainer, module: pl.LightningModule, ended: int) -> None:
        """Begin what follows a phase, which has ended, with the weights of its best validation, if it asks for it."""
        if self._ends.restore(trainer, module, self.grouping, ended):
            self.grouping.set_rates(self._state(trainer))

    def _end_epoch(self, trainer: pl.Trainer) -> None:
        if self._progress.end_epoch(trainer):
            self._replan(trainer)

    def _state(self, trainer: pl.Trainer) -> State:
        return self.plan_of_run.at(trainer.current_epoch, trainer.global_step)

    def _enter(self, trainer: pl.Trainer, freezes: bool = True) -> None:
        """Make the current state so: idempotent, at the start of the run and of every epoch."""
        state, self._entered = self._state(trainer), freezes
        if freezes and state.trained is not None:
            self.grouping.freeze(trainer, state.trained, self.train_norm)
        if state.size is not None and self.resizer is not None:
            self.resizer.set(state.size)
        self.grouping.set_rates(state)
        if any(phase.weight_decay is not None for phase in self.plan_of_run.phases):
            self.grouping.set_weight_decay(state.weight_decay)

    def _reseed(self, trainer: pl.Trainer, *moment: int | str) -> None:
        epoch, rank = trainer.current_epoch, trainer.global_rank
        reseed(trainer.strategy.root_device, self.seed or 0, epoch, moment[0], rank, *moment[1:])

    def _seed_fetch(self, trainer: pl.Trainer, batch_idx: int) -> None:
        """Let order and transforms of a loader in this process depend on nothing that happened before."""
        if batch_idx == 0:
            self._reseed(trainer, -1)
        else:
            self._reseed(trainer, batch_idx, "fetch")

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        warn_of_early_end(trainer, self.plan_of_run)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._let_go(trainer, pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        explain(exception)
        self._let_go(trainer, pl_module)

    def _let_go(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What comes after the run finds the module as it was, and may train it at any size."""
        if self._ends.ended:
            trainer.fit_loop.max_epochs = self._limit
        if self._doubts is not None:
            self._doubts.close()
            self._doubts = None
        if self.current_grouping is not None:
            self.current_grouping.let_go()
        if self.resizer is not None:
            self.resizer.release()

    # -- checkpoints -----------------------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "world_size": self._world_size,
            "lrs": dict(self.found_rates),
            "lrs_for": dict(self._found_for),
            "progress": self._progress.state_dict(),
            "ends": self._ends.state_dict(),
            "norms": self._held_norms,
            "order": self._order.state_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]
        self._world_size = state_dict["world_size"]
        self.found_rates = {int(phase): lr for phase, lr in state_dict["lrs"].items()}
        self._found_for = dict(state_dict.get("lrs_for", {}))
        self._progress.load_state_dict(state_dict.get("progress", {}))
        self._ends.load_state_dict(state_dict.get("ends", {}))
        self._held_norms = state_dict.get("norms", [])  # older runs held none once they were unfrozen
        self._order.load_state_dict(state_dict.get("order", {}))

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.current_grouping is not None:
            self.current_grouping.save(checkpoint, by_module=shards(trainer))

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._checkpoint = checkpoint  # read at `on_fit_start`, when the groups are known
        if any(phase.until is not None for phase in self.phases(trainer)):
            validate_what_was_not(trainer, checkpoint)


def followed(trainer: pl.Trainer) -> list[PhasedCallback]:
    """The callbacks whose phases the run follows, in order."""
    return [callback for callback in callbacks(trainer) if isinstance(callback, PhasedCallback)]
