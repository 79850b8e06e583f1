import itertools
import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_finetune.engine.history import LIMIT, History, Settings
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan
from lightning_finetune.show.curves import smoothed
from lightning_finetune.show.figures.content import Band
from lightning_finetune.show.figures.whole_run import draw_plan, draw_run


def history() -> History:
    recorded = History()
    for step in range(20):
        rates = {"stem": 1e-5 if step >= 10 else 0.0, "head": 1e-3}
        recorded.add(step, Settings(rates), torch.tensor(1.0 / (step + 1)))
    recorded.measure(10, {"val_loss": 0.5, "val_error_rate": 0.2})
    recorded.measure(20, {"val_loss": 0.3, "val_error_rate": 0.1})
    recorded.flush()
    return recorded


def test_panels_of_losses_metrics_and_rates_with_the_phases_named() -> None:
    figure = draw_run(history(), [Band(0, 10, "1: head"), Band(10, 20, "2: all layers")])
    losses, metrics, rates = figure.axes
    assert [panel.get_ylabel() for panel in figure.axes] == [
        "Loss",
        "Metrics of the validation set",
        "Learning rate of each layer group",
    ]
    assert [text.get_text() for text in losses.texts] == ["1: head", "2: all layers"]
    assert [line.get_label() for line in losses.lines if line.get_label()[0] != "_"] == [
        "training loss, smoothed",
        "val_loss  0.3",
    ]
    assert metrics.lines[0].get_ydata().tolist() == [0.2, 0.1]
    assert losses.get_xlim() == (0, 20)
    assert rates.get_yscale() == "log"


def test_a_frozen_group_has_no_rate() -> None:
    stem = draw_run(history()).axes[-1].lines[0].get_ydata()
    assert torch.tensor(stem[:10]).isnan().all()
    assert (stem[10:] == 1e-5).all()


def test_no_panel_for_metrics_that_were_never_measured() -> None:
    recorded = history()
    recorded.measured.clear()
    assert len(draw_run(recorded).axes) == 2


def test_a_loss_that_is_not_finite_is_drawn_without_error(tmp_path) -> None:
    recorded = history()
    recorded.losses[3:] = [float("nan")] * 17
    recorded.measure(20, {"val_loss": float("inf")})
    figure = draw_run(recorded)
    figure.savefig(tmp_path / "run.png")
    drawn = [line.get_ydata() for axes in figure.axes for line in axes.lines]
    assert any(np.isnan(values).any() and np.isfinite(values).any() for values in drawn), "a gap, and what lies before"


def test_a_short_run_is_smoothed_less_and_what_is_not_finite_leaves_a_gap() -> None:
    falling = [1.0 - step / 20 for step in range(20)]
    lag = [mean - loss for mean, loss in zip(smoothed(falling), falling, strict=True)]
    assert 0 < lag[-1] < 0.1
    assert smoothed([1.0] * 400 + [2.0])[-1] == pytest.approx(1.1)
    assert [math.isnan(value) for value in smoothed([1.0, math.inf, math.nan, 1.0])] == [False, True, True, False]


@pytest.mark.parametrize("ends", [(0, 10, 20), (0, 1, 2, 3, 20), (0, 2, 18, 20)])
def test_the_names_of_short_phases_do_not_touch(ends) -> None:
    spans = itertools.pairwise(ends)
    bands = [Band(start, end, f"{place}: all, 128 px") for place, (start, end) in enumerate(spans)]
    figure = draw_run(history(), bands)
    canvas = FigureCanvasAgg(figure)
    figure.draw(canvas.get_renderer())
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) == len(bands)
    assert [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])] == []


PHASES = [Phase(1, "head", 1e-2), Phase(2, "all", (1e-5, 1e-3))]


def test_rates_of_each_group_and_momentum_step_by_step() -> None:
    plan = make_plan(PHASES, 10, num_groups=3)
    rates, moms = draw_plan(plan, ["stem", "body", "head"], [Band(0, 10, "1"), Band(10, 30, "2")]).axes
    assert [line.get_label() for line in rates.lines][0::2] == ["stem", "head"]
    assert rates.lines[2].get_ydata().tolist() == [state.lrs[-1] for state in plan]
    assert list(moms.lines[0].get_ydata()) == [state.momentum for state in plan]


def test_a_long_run_is_sampled() -> None:
    plan = make_plan(PHASES, 5000, num_groups=2)
    assert LIMIT / 2 < len(draw_plan(plan, ["body", "head"], []).axes[0].lines[0].get_xdata()) <= LIMIT
