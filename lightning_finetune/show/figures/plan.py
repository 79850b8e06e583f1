"""A figure of a schedule before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_finetune.engine.history import LIMIT, planned
from lightning_finetune.engine.plan import Plan
from lightning_finetune.show.curves import RunCharts
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.figures.whole_run import draw_charts


def draw_plan(plan: Plan, names: Sequence[str], bands: Sequence[Band]) -> Figure:
    """The learning rate of each layer group over the whole run, and the momentum below.

    Args:
        plan: The schedule.
        names: Of the layer groups, from the input to the head.
        bands: The phases, in order.
    """
    history = planned([plan], names, range(0, len(plan), math.ceil(len(plan) / LIMIT)))
    charts = RunCharts(history, None, bands, len(plan))
    return draw_charts([charts.rates(), charts.momentum()], bands)
