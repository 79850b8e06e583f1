"""A run's layer groups and the optimizer's parameter groups, and what is done to them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer

from lightning_finetune.engine import param_groups
from lightning_finetune.engine.freezing import frozen_norms, hold_in_eval, norm_params, release, set_trainable
from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups
from lightning_finetune.engine.plan import Plan, State
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.trainer import register_trainable


class Grouping:
    """The layer groups of a module, and its optimizer split by them where rates are to be set.

    Args:
        module: Of the run.
        optimizer: Its only one.
        patterns: Of the layer groups, if the user gave some.
        splits: Whether the optimizer's parameter groups must follow the layer groups.

    Attributes:
        groups: From the input to the head.
        layers: For each of them, the parameters that the optimizer holds.
        layout: From the optimizer's parameter groups to the layer groups.
    """

    def __init__(
        self, module: pl.LightningModule, optimizer: Optimizer, patterns: list[str] | None, splits: bool
    ) -> None:
        self.module, self.optimizer = module, optimizer
        self.groups = layer_groups(module, patterns)
        self.layers = param_groups.held_layers(optimizer, self.groups)
        self.layout = param_groups.split(optimizer, self.groups) if splits else param_groups.Layout(())

    @property
    def num_head(self) -> int:
        """How many groups ``"head"`` means."""
        return num_head_groups(self.groups)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that trains what the optimizer does not hold.

        Raises:
            PhaseError: Names the layer groups.
        """
        for phase in range(len(plan.phases)):
            first = len(self.layers) - (plan.trained(phase) or 0)
            held = zip(self.groups[first:], self.layers[first:], strict=True)
            empty = [group.name for group, params in held if not params]
            if empty:
                raise PhaseError(
                    f"Phase {phase + 1} trains the layer groups {empty}, but the optimizer holds none of their "
                    "parameters. Give all parameters to the optimizer in `configure_optimizers` of "
                    f"{type(self.module).__name__}; "
                    "frozen ones are skipped while they are frozen."
                )

    def freeze(self, trainer: pl.Trainer, trained: int, train_norm: bool) -> None:
        """Let the last ``trained`` groups train, and norm layers of the others only with ``train_norm``."""
        always = norm_params(self.module) if train_norm else []
        if set_trainable(self.layers, trained, always):
            register_trainable(trainer, self.module)
        release(self.module)
        if not train_norm:
            hold_in_eval(frozen_norms(self.module, self.layers, trained))

    def set_rates(self, state: State) -> None:
        """Set the rates and the momentum of ``state``, where it has them."""
        if state.lrs is not None:
            param_groups.set_rates(self.optimizer, self.layout, state.lrs, state.momentum)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Bring the optimizer's state into the groups that the module made, so that it also loads without us."""
        states = checkpoint.get("optimizer_states")
        if states:
            states[0] = param_groups.merge_state(states[0], self.optimizer, self.layout)

    def restore(self, checkpoint: dict[str, Any] | None) -> None:
        """Bring a checkpoint's optimizer state from the module's groups into ours, before it is loaded."""
        states = (checkpoint or {}).get("optimizer_states")
        if states:
            states[0] = param_groups.split_state(states[0], self.optimizer, self.layout)
