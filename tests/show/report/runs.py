"""A run without a trainer: what a report is made of."""

import math

import torch

from lightning_finetune.engine.history import History, Settings, planned
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import Plan, make_plan
from lightning_finetune.engine.range_test import Curve, rates_between, record_curve, suggest
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.report import Outcome, Report

NAMES = ["stem", "body", "head"]
PLAN = make_plan([Phase(2, "head", 1e-2, 32), Phase(2, "all", (1e-4, 1e-3), 64)], 10)
BANDS = [Band(0, 20, "1: head"), Band(20, 40, "2: all layers")]


def history(steps: int = 40, plan: Plan = PLAN, losses: dict[int, float] | None = None) -> History:
    """Of a run that follows ``plan`` for so many steps, validated after each ten."""
    found, meant = History(), planned([plan], NAMES, range(steps))
    for step in range(steps):
        if step % 10 == 0:
            found.begin_epoch(step // 10, step)
        settings = Settings(
            {name: column[step] for name, column in meant.rates.items()},
            meant.momentum[step],
            meant.sizes[step],
            {name: column[step] for name, column in meant.trained.items()},
        )
        found.add(step, settings, torch.tensor((losses or {}).get(step, 2 * math.exp(-step / 15) + 0.1)))
        if step % 10 == 9:
            found.measure(step + 1, {"val_loss": 3 / (step + 1), "val_error_rate": 0.5 - step / 100})
    found.flush()
    return found


def report(steps: int = 40, **changes) -> Report:
    """Of such a run."""
    given = {
        "title": "Net",
        "outcome": Outcome("finished", "Finished."),
        "history": history(steps),
        "made": steps,
        "plan": PLAN,
        "planned": planned([PLAN], NAMES, range(40)),
        "bands": BANDS,
    }
    return Report(**{**given, **changes})


def curve(explodes: bool = True) -> Curve:
    rates = rates_between(1e-7, 10, 100)
    found = record_curve(lambda lr: 1 / (1 + 1e3 * lr) + (lr * 10 if explodes else 0.0), rates)
    return Curve(found.lrs, found.losses, found.smoothed, found.diverged, suggest(found, 100))
