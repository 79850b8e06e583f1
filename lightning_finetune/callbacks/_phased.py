"""What every callback that follows phases shares: it asks the plan what holds now, and makes it so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.nn import Parameter
from torch.optim import Optimizer
from typing_extensions import override

from lightning_finetune import param_groups
from lightning_finetune.callbacks import _trainer
from lightning_finetune.callbacks._early_end import warn_of_early_end, warn_of_early_stopping
from lightning_finetune.callbacks._sizes import Resizer
from lightning_finetune.errors import PhaseError
from lightning_finetune.freezing import all_trainable, frozen_norms, hold_in_eval, norm_params, release, set_trainable
from lightning_finetune.layer_groups import LayerGroup, layer_groups, num_head_groups
from lightning_finetune.phases import LR, Phase, scaled
from lightning_finetune.plan import Plan, State, make_plan
from lightning_finetune.resize import MIN_SIZE


class PhasedCallback(Callback):
    """Applies a list of phases to a run.

    Each subclass says which phases; what a phase leaves at None is left alone, so that callbacks compose as long as no
    two govern the same thing. Nothing is kept but the seed and what a range test found: where the run is says
    everything else, so a resumed run continues as if it had not stopped.
    """

    def __init__(self, groups: list[str] | None = None, train_norm: bool = False, min_size: int = MIN_SIZE) -> None:
        self.groups = groups
        self.train_norm = train_norm
        self.min_size = min_size
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Keep nothing of an earlier run, so that a callback does in a second fit what a new one does."""
        self._seed: int | None = None
        self._lrs: dict[int, LR] = {}
        self._checkpoint: dict[str, Any] | None = None
        self._plan: Plan | None = None
        self._layers: list[list[Parameter]] = []
        self._layer_groups: list[LayerGroup] = []
        self._layout = param_groups.Layout(())
        self._resizer: Resizer | None = None

    # -- what a subclass says --------------------------------------------------------------------------------------

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
            _trainer.refuse_unsupported(trainer, pl_module, type(self).__name__)
            warn_of_early_stopping(trainer, self.phases(trainer))

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        optimizer = _trainer.the_optimizer(trainer, type(self).__name__)
        self._layer_groups = layer_groups(pl_module, self._patterns(trainer))
        self._layers = param_groups.held_layers(optimizer, self._layer_groups)
        self._check_conflicts(trainer)
        if "lr" in self.governs(trainer):
            _trainer.refuse_schedulers(trainer, type(self).__name__)
            self._layout = param_groups.split(optimizer, self._layer_groups)
        self._restore_layout(optimizer)

    def _patterns(self, trainer: pl.Trainer) -> list[str] | None:
        """The user's patterns, given to whichever of the callbacks."""
        callbacks = [self, *self._others(trainer)]
        given = [callback.groups for callback in callbacks if callback.groups is not None]
        if any(patterns != given[0] for patterns in given):
            raise PhaseError(f"Expected one list of `groups` for all callbacks, got {given}.")
        return given[0] if given else None

    def _others(self, trainer: pl.Trainer) -> list[PhasedCallback]:
        return [
            other for other in _trainer.callbacks(trainer) if isinstance(other, PhasedCallback) and other is not self
        ]

    def _check_conflicts(self, trainer: pl.Trainer) -> None:
        mine = self.governs(trainer)
        for other in self._others(trainer):
            shared = mine & other.governs(trainer)
            if shared:
                raise PhaseError(
                    f"{type(self).__name__} and {type(other).__name__} both set {sorted(shared)}. Drop one of them."
                )

    def _restore_layout(self, optimizer: Optimizer) -> None:
        """A checkpoint holds the optimizer's state in the module's own groups; bring it into ours."""
        if self._checkpoint and self._checkpoint.get("optimizer_states"):
            states = self._checkpoint["optimizer_states"]
            states[0] = param_groups.split_state(states[0], optimizer, self._layout)
        self._checkpoint = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._seed is None:
            self._seed = _trainer.run_seed(trainer)
        self._plan = self._make_plan(trainer)
        for phase in range(len(self._plan.phases)):
            self._check_phase(phase, pl_module)
        self._try_sizes(trainer, pl_module)
        self._enter(trainer, pl_module)

    def _try_sizes(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """With all layers training, as memory is needed then, make a step at each size."""
        sizes = {phase.size for phase in self.plan_of_run.phases if phase.size is not None}
        if sizes:
            self._resizer = Resizer(trainer, module, self.min_size)
            with all_trainable(self._layers) as changed:
                if changed:
                    _trainer.register_trainable(trainer, module)
                self._resizer.dry_run(trainer, sizes)
            if changed:
                _trainer.register_trainable(trainer, module)

    def _make_plan(self, trainer: pl.Trainer) -> Plan:
        phases = self.phases(trainer)
        known = sum(phase.epochs or 0 for phase in phases)
        limit = _trainer.max_epochs(trainer)
        if _trainer.is_dev_run(trainer):
            limit = known + 1
        plan = make_plan(
            phases,
            _trainer.steps_per_epoch(trainer, max(limit or 0, known + 1)),
            max_epochs=limit,
            max_steps=None if _trainer.is_dev_run(trainer) else _trainer.max_steps(trainer),
            num_groups=len(self._layer_groups),
            num_head=num_head_groups(self._layer_groups),
            train_norm=self.train_norm,
        )
        for phase, lr in self._lrs.items():
            plan = plan.with_lr(phase, lr)
        return plan

    def _check_phase(self, phase: int, module: pl.LightningModule) -> None:
        trained = self.plan_of_run.trained(phase)
        first = len(self._layers) - (trained or 0)
        empty = [
            group.name for group, held in zip(self._layer_groups[first:], self._layers[first:], strict=True) if not held
        ]
        if empty:
            raise PhaseError(
                f"Phase {phase} trains the layer groups {empty}, but the optimizer holds none of their parameters. "
                f"Give all parameters to the optimizer in `configure_optimizers` of {type(module).__name__}; "
                "frozen ones are skipped while they are frozen."
            )

    @property
    def plan_of_run(self) -> Plan:
        """The resolved plan of the current run.

        Raises:
            PhaseError: No run has begun.
        """
        if self._plan is None:
            raise PhaseError(f"{type(self).__name__} has no plan yet: it is made when training starts.")
        return self._plan

    def set_lr(self, trainer: pl.Trainer, phase: int, lr: LR) -> None:
        """Give ``phase`` the rate that a range test found, from the next step on; kept in the checkpoint."""
        self._lrs[phase] = lr
        self._plan = self.plan_of_run.with_lr(phase, lr)
        self._set_rates(trainer, self._state(trainer))

    def scale_peak(self, trainer: pl.Trainer, peak: float) -> None:
        """Let the current phase, if it sets rates, peak at ``peak``; ratios between groups stay."""
        phase = self.plan_of_run.phase_of(trainer.current_epoch)
        lr = self.plan_of_run.phases[phase].lr
        if lr is not None:
            self.set_lr(trainer, phase, scaled(lr, peak))

    # -- during the run --------------------------------------------------------------------------------------------

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._enter(trainer, pl_module)
        self._reseed(trainer, -1)
        _trainer.restart_loader(trainer)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._reseed(trainer, batch_idx)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The next step's rates are set here, so that a monitor that runs before this callback logs the right ones.
        self._set_rates(trainer, self._state(trainer))

    def _state(self, trainer: pl.Trainer) -> State:
        return self.plan_of_run.at(trainer.current_epoch, trainer.global_step)

    def _enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Make the current state so: idempotent, at the start of the run and of every epoch."""
        state = self._state(trainer)
        if state.trained is not None:
            self._freeze(trainer, module, state.trained)
        if state.size is not None and self._resizer is not None:
            self._resizer.set(state.size)
        self._set_rates(trainer, state)

    def _freeze(self, trainer: pl.Trainer, module: pl.LightningModule, trained: int) -> None:
        always = norm_params(module) if self.train_norm else []
        if set_trainable(self._layers, trained, always):
            _trainer.register_trainable(trainer, module)
        release(module)
        if not self.train_norm:
            hold_in_eval(frozen_norms(module, self._layers, trained))

    def _set_rates(self, trainer: pl.Trainer, state: State) -> None:
        if state.lrs is not None:
            param_groups.set_rates(trainer.optimizers[0], self._layout, state.lrs, state.momentum)

    def _reseed(self, trainer: pl.Trainer, batch_idx: int) -> None:
        _trainer.reseed(self._seed or 0, trainer.current_epoch, batch_idx, trainer.global_rank)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        warn_of_early_end(trainer, self.plan_of_run)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            release(pl_module)  # what comes after the run may train them
        if stage == "fit" and self._resizer is not None:
            self._resizer.release()

    # -- checkpoints -----------------------------------------------------------------------------------------------

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed, "lrs": dict(self._lrs)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seed = state_dict["seed"]
        self._lrs = {int(phase): lr for phase, lr in state_dict["lrs"].items()}

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # In the module's own groups, so that the file also loads without this callback.
        states = checkpoint.get("optimizer_states")
        if states and self._layout.original is not None:
            states[0] = param_groups.merge_state(states[0], trainer.optimizers[0], self._layout)

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._checkpoint = checkpoint  # read at `on_fit_start`, when the groups are known


def spans(changes: dict[int, Any], what: str) -> list[tuple[int | None, Any]]:
    """``{0: a, 4: b}`` as ``[(4, a), (None, b)]``: how long each value holds, in epochs.

    Raises:
        PhaseError: No value for epoch 0, or epochs that are not whole numbers from 0.
    """
    if not isinstance(changes, dict) or not all(isinstance(epoch, int) and epoch >= 0 for epoch in changes):
        raise PhaseError(f"Expected {what} as {{epoch: value}} with epochs from 0, got {changes!r}.")
    if 0 not in changes:
        raise PhaseError(f"Expected {what} to say what holds from epoch 0 on, got the epochs {sorted(changes)}.")
    starts: Sequence[int] = sorted(changes)
    ends = [*starts[1:], None]
    return [(None if end is None else end - start, changes[start]) for start, end in zip(starts, ends, strict=True)]
