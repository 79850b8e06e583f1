"""What callbacks that show a run ask about its phases."""

from __future__ import annotations

import os

import lightning.pytorch as pl
from torch.nn import Parameter

from lightning_finetune.engine.plan import Plan
from lightning_finetune.engine.resize import Size
from lightning_finetune.run.phased_callback import followed


def plans_of(trainer: pl.Trainer) -> list[Plan]:
    """The plans that the run follows, the one with the most phases first."""
    plans = [callback.current_plan for callback in followed(trainer) if callback.current_plan is not None]
    return sorted(plans, key=lambda plan: -len(plan.phases))


def plan_of(trainer: pl.Trainer) -> Plan | None:
    """The plan with the most phases that the run follows, if it follows any."""
    return next(iter(plans_of(trainer)), None)


def layers_of(trainer: pl.Trainer) -> dict[str, list[Parameter]]:
    """The parameters of each layer group that the optimizer holds; empty where no callback made layer groups."""
    groupings = (callback.current_grouping for callback in followed(trainer))
    grouping = next((found for found in groupings if found is not None), None)
    names = [] if grouping is None else grouping.names
    return {} if grouping is None else dict(zip(names, grouping.layers, strict=True))


def size_on_device(trainer: pl.Trainer) -> Size | None:
    """Height and width that batches are resized to on their way into ``training_step``, where they are."""
    resizers = [one.resizer for one in followed(trainer) if one.resizer is not None]
    return next((resizer.size for resizer in resizers if resizer.data is None), None)


def seed_of(trainer: pl.Trainer) -> int | None:
    """The seed that the run's draws come from; None where nobody set or drew one."""
    drawn = next((one.seed for one in followed(trainer) if one.seed is not None), None)
    given = os.environ.get("PL_GLOBAL_SEED")
    return drawn if drawn is not None or given is None else int(given)


def ends_phase(trainer: pl.Trainer) -> bool:
    """Whether the current epoch is the last of its phase; every epoch is where there are no phases."""
    plan = plan_of(trainer)
    epoch = trainer.current_epoch
    return plan is None or epoch + 1 == trainer.max_epochs or plan.phase_of(epoch) != plan.phase_of(epoch + 1)
