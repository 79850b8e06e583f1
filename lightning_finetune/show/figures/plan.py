"""A figure of a schedule before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_finetune.engine.history import LIMIT, planned
from lightning_finetune.engine.plan import Plan
from lightning_finetune.show.figures.run import draw_rates, finish
from lightning_finetune.show.figures.shown import Band


def draw_plan(plan: Plan, names: Sequence[str], bands: Sequence[Band]) -> Figure:
    """The learning rate of each layer group over the whole run, and the momentum below.

    Args:
        plan: The schedule.
        names: Of the layer groups, from the input to the head.
        bands: The phases, in order.
    """
    history = planned([plan], names, range(0, len(plan), math.ceil(len(plan) / LIMIT)))
    figure = Figure(figsize=(9, 6), layout="constrained")
    rates, moms = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    draw_rates(rates, history)
    known = [float("nan") if value is None else value for value in history.momentum]
    moms.plot(history.steps, known, color="#4477aa")
    moms.set_ylabel("momentum")
    finish([rates, moms], bands)
    return figure
