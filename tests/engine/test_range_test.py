"""The sweep, its stop, and its suggestions: fastai's numbers on the same curves, and the elbow."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lightning_finetune.engine import range_test
from lightning_finetune.engine.range_test import (
    Curve,
    choose,
    elbow,
    fault,
    minimum,
    slide,
    steep,
    suggest,
    sweep,
    sweep_rates,
    valley,
)
from lightning_finetune.errors import PhaseError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "range_test.json").read_text())
REAL = Path(__file__).parents[2] / "benchmarks" / "range_curves.json"
RATES = sweep_rates(1e-7, 10, 100)


def curve_of(losses, lrs=RATES) -> Curve:
    feed = iter(losses)
    recorded = sweep(lambda _: float(next(feed)), lrs, stop_div=None)
    return Curve(recorded.lrs, recorded.losses, recorded.smoothed, recorded.diverged, suggest(recorded, len(lrs)))


def hockey_stick(bend: float, level: float = 0.5, noise: float = 0.0, fall: float = 0.0, seed: int = 0):
    """Flat, perhaps falling from 1e-6 on, then shooting up after the rate ``bend``."""
    x, draws = np.log10(RATES), np.random.default_rng(seed)
    up = 20 * np.clip(x - math.log10(bend), 0, None) ** 2
    down = fall * np.clip((x + 6) / (math.log10(bend) + 6), 0, 1)
    return level + fall - down + up + noise * draws.standard_normal(len(x))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
@pytest.mark.parametrize("name", ["steep", "valley", "slide", "minimum"])
def test_the_suggestions_are_fastais(case, name):
    found = getattr(range_test, name)(case["lrs"], case["losses"])
    assert found == pytest.approx(case["fastai"][name], rel=1e-6)


def test_the_rates_grow_geometrically_and_the_end_is_not_reached():
    assert RATES[0] == 1e-7
    assert RATES[-1] == pytest.approx(10 * 1e-8**0.01)
    assert np.diff(np.log(RATES)) == pytest.approx(np.log(1e8) / 100)


def test_the_mean_is_debiased():
    """Lightning's first point is half the true loss; a constant loss must stay itself."""
    assert curve_of([3.0] * 100).smoothed == pytest.approx([3.0] * 100)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep(bad):
    losses = iter([1.0] * 50 + [bad] + [1.0] * 50)
    recorded = sweep(lambda _: next(losses), RATES)
    assert (len(recorded.lrs), recorded.diverged) == (51, True)
    assert all(math.isfinite(value) for value in suggest(recorded, 100).values())


def test_a_smoothed_loss_of_four_times_the_best_ends_the_sweep():
    losses = iter([1.0] * 50 + [1000.0] * 50)
    recorded = sweep(lambda _: next(losses), RATES)
    assert recorded.diverged
    assert recorded.smoothed[-1] > 4 * min(recorded.smoothed) > recorded.smoothed[-2]


@pytest.mark.parametrize("function", [steep, valley, slide, minimum])
@pytest.mark.parametrize(
    "losses", [[2.0, 1.0], [1.0, 2.0], list(np.linspace(2, 1, 40)), list(np.linspace(1, 2, 40)), [1.0] * 40]
)
def test_short_and_monotone_curves_give_a_rate_of_the_curve(function, losses):
    lrs = list(np.geomspace(1e-5, 1, len(losses)))
    value = function(lrs, losses)
    assert value is None or lrs[0] / 10.01 <= value <= lrs[-1] * 1.01


@pytest.mark.parametrize("bend", [1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("shape", [{}, {"noise": 0.05}, {"fall": 0.4, "noise": 0.05}, {"noise": 0.2, "fall": 0.4}])
def test_the_elbow_is_a_tenth_of_where_the_loss_shoots_up(bend, shape):
    for seed in range(8):
        found = elbow(RATES, hockey_stick(bend, seed=seed, **shape))
        assert bend / 3 < 10 * found < 3 * bend


@pytest.fixture
def real():
    """Rates of the elbow and of ``steep``, and what a person read off, of curves of real models, by setting."""
    if not REAL.exists():
        pytest.skip("the recorded curves are in the repository, not in the sdist")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in json.loads(REAL.read_text()):
        values = suggest(curve_of(row["losses"], RATES[: len(row["losses"])]), len(RATES))
        found.setdefault(f"{row['setting']} {row['kind']}", []).append((values["elbow"], values["steep"], row["hand"]))
    return {setting: np.log10(rates) for setting, rates in found.items()}


def test_the_elbow_is_where_a_person_points_on_real_curves(real):
    elbows, _, hands = np.concatenate(list(real.values())).T
    assert len(elbows) >= 48
    assert np.mean(np.abs(elbows + 1 - hands) < np.log10(3)) >= 0.9


def test_the_elbow_varies_less_over_seeds_than_the_steepest_descent(real):
    for elbows, steeps, hands in (rates.T for rates in real.values()):
        assert elbows.std() < 0.25
        stuck = steeps.max() < np.log10(10 * RATES[10])  # all at the sweep's left edge: alike, and wrong
        assert elbows.std() < steeps.std() or stuck
        assert elbows.std() < hands.std() + 0.1


def test_no_elbow_where_nothing_shoots_up():
    draws = np.random.default_rng(0).standard_normal(100)
    assert elbow(RATES, 1 + 0.1 * draws) is None
    assert elbow(RATES, np.linspace(2, 1, 100) + 0.05 * draws) is None


def test_a_flat_curve_and_few_points_are_not_trusted():
    flat = curve_of([1.0] * 100)
    assert "elbow" not in flat.suggestions
    assert [fault(flat, name) for name in ("steep", "valley", "elbow")] == ["nowhere falls"] * 2 + ["nowhere shoots up"]
    short = curve_of([2.0, 1.9, 1.5, 1.0, 1.0, 2.0, 3.0, 9.0], RATES[:8])
    assert fault(short, "steep") == "has only 8 points"


def test_the_suggestions_of_a_sweep_leave_out_what_fastai_leaves_out():
    """The first tenth of the planned steps, and the last five points."""
    losses = list(np.linspace(2, 1, 90))
    curve = curve_of(losses, RATES[:90])
    expected = steep(curve.lrs[10:-5], curve.smoothed[10:-5])
    assert suggest(curve, 100)["steep"] == expected


def test_a_head_takes_the_steepest_descent_within_the_fall():
    losses = 2.0 - 1.5 / (1 + np.exp(-3 * (np.log10(RATES) + 3)))
    found = choose("find", curve_of(losses), unfrozen=False)
    assert found.lr == curve_of(losses).suggestions["steep"]
    assert 1e-4 < found.lr < 1e-1


def test_a_steep_step_before_the_fall_is_not_trusted():
    losses = 2.0 - 1.5 / (1 + np.exp(-3 * (np.log10(RATES) + 3)))
    losses[10] += 30.0  # one bad batch: the running mean comes down from it at a rate of 1e-6
    curve = curve_of(losses)
    assert curve.suggestions["steep"] < 1e-5
    found = choose("find", curve, unfrozen=False)
    assert found.lr == 3e-3
    assert "before it falls" in found.reason


def test_unfrozen_layers_take_the_elbow_and_the_given_rate():
    found = choose(("find", 3e-4), curve_of(hockey_stick(1e-4, noise=0.02)), unfrozen=True)
    assert found.lr[0] == pytest.approx(1e-5, rel=1)
    assert found.lr[1] == 3e-4
    assert "elbow" in found.reason


def test_an_elbow_above_the_given_rate_still_spreads():
    assert choose(("find", 3e-4), curve_of(hockey_stick(1e-1)), unfrozen=True).lr == pytest.approx((3e-5, 3e-4))


def test_what_cannot_be_trusted_falls_back_to_the_lessons_default_and_says_so():
    flat = curve_of([1.0] * 100)
    assert choose("find", flat, unfrozen=False).lr == 3e-3
    assert choose("find", flat, unfrozen=True).lr == pytest.approx((3e-6, 3e-4))
    assert "default" in choose(("find", 3e-4), flat, unfrozen=True).reason


def test_sweeps_that_cannot_be_are_refused():
    for wrong in ((0, 1, 100), (1, 0.1, 100), (1e-7, math.inf, 100)):
        with pytest.raises(PhaseError, match="start_lr"):
            sweep_rates(*wrong)
    with pytest.raises(PhaseError, match="num_steps=5"):
        sweep_rates(1e-7, 10, 5)
