"""A run's layer groups and the optimizer's parameter groups, and what is done to them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import lightning.pytorch as pl
from torch.nn import Parameter
from torch.optim import Optimizer

from lightning_finetune.engine import param_groups
from lightning_finetune.engine.freezing import (
    frozen_norms,
    hold_in_eval,
    learned_norms,
    named_parts,
    norm_params,
    release,
    set_trainable,
)
from lightning_finetune.engine.groups.said import says_itself
from lightning_finetune.engine.head_doubts import COPIES, WAY_OUT, head_doubts
from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan, State
from lightning_finetune.errors import PhaseError, first_ten
from lightning_finetune.run.trainer import register_trainable


class Grouping:
    """The layer groups of a module, and its optimizer split by them where rates are to be set.

    Groups hold what can train: what its author froze, or gave to no optimizer, is in none and is left as it is.

    Args:
        module: Of a run that begins.
        optimizer: Its only one.
        patterns: Of the layer groups, if the user gave some.
        splits: Whether the optimizer's parameter groups must follow the layer groups.
        unfreeze_all: Whether what the author froze trains too.
        held: Names of the norm layers whose running statistics stay as they are while the run holds norm layers; None:
            all whose statistics were learnt before.

    Attributes:
        groups: From the input to the head.
        layers: Their parameters, without those that the author froze since the run began.
        layout: From the optimizer's parameter groups to the layer groups.
        held: Names of those norm layers.
        theirs: Parameters that the author froze.
        never: Parameters that have a gradient, but no optimizer.

    Raises:
        PhaseError: There is nothing to train.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        optimizer: Optimizer,
        patterns: list[str] | None,
        *,
        splits: bool,
        unfreeze_all: bool = False,
        held: list[str] | None = None,
    ) -> None:
        self.module, self.optimizer = module, optimizer
        optimized = {id(param) for group in optimizer.param_groups for param in group["params"]}
        self.theirs = [p for p in module.parameters() if not (p.requires_grad or (unfreeze_all and _can_train(p)))]
        left = {id(param) for param in self.theirs}
        free = [param for param in module.parameters() if id(param) not in left]
        self.never = [param for param in free if id(param) not in optimized]
        ours = [param for param in free if id(param) in optimized]
        if not ours:
            raise PhaseError(f"There is nothing to train. {' '.join(self.left_alone())}")
        self.groups = layer_groups(module, patterns, only=ours)
        self.layers = [list(group.params) for group in self.groups]
        self.layout = param_groups.split(optimizer, self.groups) if splits else param_groups.Layout(())
        self._before = [(param, param.requires_grad) for param in ours]
        self._freed = {id(param) for param in ours if param.requires_grad}
        self.held = learned_norms(module, self.theirs) if held is None else held
        self._said = patterns is not None or says_itself(module)
        self._rates: list[float | None] = []
        self._decays = [group.get("weight_decay") for group in optimizer.param_groups]

    @property
    def names(self) -> list[str]:
        """Of the groups."""
        return [group.name for group in self.groups]

    @property
    def num_head(self) -> int:
        """How many groups ``"head"`` means."""
        return num_head_groups(self.groups)

    def left_alone(self) -> list[str]:
        """A sentence for each kind of parameters that are in no group: why, and what would train them."""
        name = type(self.module).__name__
        said = []
        if self.theirs:
            parts = named_parts(self.module, self.theirs)
            said.append(f"{name} froze {parts}: they stay as they are; unfreeze_all=True would train them.")
        if self.never:
            parts = named_parts(self.module, self.never)
            said.append(
                f"No optimizer holds {parts} of {name}: they stay as they are; `configure_optimizers` would have to "
                "give them to the optimizer."
            )
        return said

    def check_counts(self, phases: Sequence[Phase]) -> None:
        """Say what is left alone, where a phase trains more layer groups than there are without it.

        Raises:
            PhaseError: Names the phase, and what would have to be done.
        """
        for number, phase in enumerate(phases, 1):
            if isinstance(phase.train, int) and phase.train > len(self.groups) and (said := self.left_alone()):
                raise PhaseError(
                    f"Phase {number} trains {phase.train} layer groups, but the model has {len(self.groups)}. "
                    + " ".join(said)
                )

    def check(self, plan: Plan) -> str | None:
        """Whether ``plan`` can be followed with what can train.

        Returns:
            What to warn of, if a phase is to unfreeze what is left alone.

        Raises:
            PhaseError: A phase would train nothing that another does not, because the optimizer holds nothing else.
        """
        wanted = [phase.train for phase in plan.phases]
        trained = [plan.trained(phase) for phase in range(len(wanted))]
        idle = [k for k in range(1, len(wanted)) if wanted[k] != wanted[k - 1] and trained[k] == trained[k - 1]]
        if not idle or not (said := " ".join(self.left_alone())):
            return None
        what = f"Phase {idle[0] + 1} (train={wanted[idle[0]]!r}) trains nothing that phase {idle[0]} does not. {said}"
        if not self.theirs:
            raise PhaseError(what)
        return what

    def doubts(self) -> Generator[str | None]:
        """What is improbable about the head, asked three times (:func:`head_doubts`); nothing, if it was said."""
        if not self._said:
            yield from head_doubts(self.module, self.groups)

    def refuse_loss(self, trained: int) -> None:
        """Refuse a loss that has no gradient while the last ``trained`` groups train, if others are frozen.

        Raises:
            PhaseError: Names what trains.
        """
        if trained == len(self.groups):
            return  # it is not for want of layers: torch says the rest
        names = [group.name for group in self.groups[-trained:]]
        raise PhaseError(f"The loss depends on nothing that trains, which is{first_ten(names)}\n{COPIES} {WAY_OUT}")

    def freeze(self, trainer: pl.Trainer, trained: int, train_norm: bool) -> None:
        """Let the last ``trained`` groups train.

        With ``train_norm`` all norm layers train; without it those of the other groups are frozen too, and running
        statistics that were learnt before stay as they are in every group.
        """
        self._leave_what_was_frozen_since()
        always = norm_params(self.module) if train_norm else []
        if set_trainable(self.layers, trained, always):
            register_trainable(trainer, self.module)
        self._freed = {id(param) for params in self.layers for param in params if param.requires_grad}
        release(self.module)
        last = len(self.layers) if train_norm else trained
        frozen = frozen_norms(self.module, self.layers, last, never=self.never, theirs=self.theirs)
        learned = [] if train_norm else [self.module.get_submodule(name) for name in self.held]
        hold_in_eval(dict.fromkeys([*frozen, *learned]))

    def _leave_what_was_frozen_since(self) -> None:
        """What had a gradient and has none now, somebody else froze: a hook of the module, another callback."""
        theirs = [p for params in self.layers for p in params if id(p) in self._freed and not p.requires_grad]
        left = {id(param) for param in theirs}
        self.theirs += theirs
        self.layers = [[param for param in params if id(param) not in left] for params in self.layers]

    def let_go(self) -> None:
        """Leave gradients and modes of the module as they were when the run began."""
        release(self.module)
        self._leave_what_was_frozen_since()
        ours = {id(param) for params in self.layers for param in params}
        for param, needs_grad in self._before:
            if id(param) in ours:
                param.requires_grad_(needs_grad)

    def set_rates(self, state: State) -> None:
        """Set the rates and the momentum of ``state``, where it has them."""
        if state.lrs is not None:
            param_groups.set_rates(self.optimizer, self.layout, state.lrs, state.momentum)
            self._rates = self._known_rates()

    def set_weight_decay(self, value: float | None) -> None:
        """Decay what the optimizer decays by ``value``; None: by its own. Where it decays nothing, all is decayed.

        Raises:
            PhaseError: The optimizer has no weight decay.
        """
        if value is not None and None in self._decays:
            raise PhaseError(
                f"A phase sets `weight_decay`, but {type(self.optimizer).__name__} has none. Leave it out."
            )
        decayed = [own for own in self._decays if own]
        for group, own in zip(self.optimizer.param_groups, self._decays, strict=True):
            if own is not None:
                group["weight_decay"] = own if value is None or (decayed and not own) else value

    def state(self) -> dict[str, Any]:
        """The state of the optimizer, in the groups that the module made."""
        return param_groups.merge_state(self.optimizer.state_dict(), self.optimizer, self.layout)

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.optimizer.load_state_dict(param_groups.split_state(state, self.optimizer, self.layout))

    def changed_rate(self) -> tuple[float, float] | None:
        """The first rate that is not the one set last, and that one; tensors are not read, as it would cost time."""
        pairs = zip(self._known_rates(), self._rates, strict=False)
        return next(((now, own) for now, own in pairs if now is not None and own is not None and now != own), None)

    def _known_rates(self) -> list[float | None]:
        return [group["lr"] if isinstance(group["lr"], float) else None for group in self.optimizer.param_groups]

    def save(self, checkpoint: dict[str, Any], by_module: bool = False) -> None:
        """Bring the optimizer's state into the groups that the module made, so that it also loads without us.

        Args:
            checkpoint: That is written.
            by_module: Its parameters are numbered as the module has them, as Lightning does with those of shards.
        """
        states = checkpoint.get("optimizer_states")
        if states and all(isinstance(slot, int) for slot in states[0].get("state", [None])):  # else of shards, by name
            order = list(self.module.parameters()) if by_module else None
            states[0] = param_groups.merge_state(states[0], self.optimizer, self.layout, order)

    def restore(self, checkpoint: dict[str, Any] | None) -> None:
        """Bring a checkpoint's optimizer state from the module's groups into ours, before it is loaded."""
        states = (checkpoint or {}).get("optimizer_states")
        if states:
            states[0] = param_groups.split_state(states[0], self.optimizer, self.layout)


def _can_train(param: Parameter) -> bool:
    """Numbers of a quantised layer are integers, which have no gradient."""
    return param.is_floating_point() or param.is_complex()
