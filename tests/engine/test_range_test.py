"""The test, its stop, and its suggestions: fastai's numbers on the same curves, and the elbow."""

import json
import math
from dataclasses import replace
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
    rates_between,
    record_curve,
    slide,
    steep,
    steps_of_test,
    suggest,
    valley,
)
from lightning_finetune.errors import PhaseError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "range_test.json").read_text())
REAL = Path(__file__).parents[2] / "benchmarks" / "range_curves.json"
RATES = rates_between(1e-7, 10, 100)


def curve_of(losses, lrs=RATES) -> Curve:
    feed = iter(losses)
    recorded = record_curve(lambda _: float(next(feed)), lrs, stop_div=None)
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
    recorded = record_curve(lambda _: next(losses), RATES)
    assert (len(recorded.lrs), recorded.diverged) == (51, True)
    assert all(math.isfinite(value) for value in suggest(recorded, 100).values())


def test_a_smoothed_loss_of_four_times_the_best_ends_the_sweep():
    losses = iter([1.0] * 50 + [1000.0] * 50)
    recorded = record_curve(lambda _: next(losses), RATES)
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
        stuck = steeps.max() < np.log10(10 * RATES[10])  # all at the test's left edge: alike, and wrong
        assert elbows.std() < steeps.std() or stuck
        assert elbows.std() < hands.std() + 0.1


@pytest.mark.parametrize("steps", [50, 25, 20, 16])
def test_fewer_and_wider_steps_have_the_same_elbow(real, steps):
    """Every so many of the recorded steps stand for a shorter test."""
    kept, near, total = [100 * step // steps for step in range(steps)], 0, 0
    high = 0
    for row in json.loads(REAL.read_text()):
        losses = [row["losses"][place] for place in kept if place < len(row["losses"])]
        curve = curve_of(losses, [RATES[place] for place in kept][: len(losses)])
        found = suggest(curve, steps).get("elbow")
        near += found is not None and row["hand"] / 30 < found < row["hand"] * 0.3
        high += found is not None and found > row["hand"] * 0.31
        total += 1
    assert near >= 0.75 * total
    assert high <= 0.05 * total, "what is missed is missed on the safe side"


def test_a_short_test_is_smoothed_over_as_many_decades():
    def loss(lr: float) -> float:
        return 2.0 - 1.5 / (1 + math.exp(-3 * (math.log10(lr) + 3)))

    full, short = (record_curve(loss, rates_between(1e-7, 10, steps), None).smoothed for steps in (100, 25))
    assert short == pytest.approx(full[::4], abs=0.08)


@pytest.mark.parametrize(("per_epoch", "steps"), [(1, 16), (4, 16), (6, 24), (24, 96), (1000, 100), (math.inf, 100)])
def test_a_test_is_bounded_by_the_data(per_epoch, steps):
    assert steps_of_test(per_epoch) == steps


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


def test_the_suggestions_of_a_test_leave_out_what_fastai_leaves_out():
    """The first tenth of the planned steps, and the last five points."""
    losses = list(np.linspace(2, 1, 90))
    curve = curve_of(losses, RATES[:90])
    expected = steep(curve.lrs[10:-5], curve.smoothed[10:-5])
    assert suggest(curve, 100)["steep"] == expected


@pytest.mark.parametrize(
    ("bend", "expected", "word"),
    [(0.1, 3e-3, "allows"), (0.01, 3e-3, "allows"), (2e-3, 2e-4, "lower"), (0.6, 6e-3, "higher"), (5, 3e-3, "default")],
)
def test_a_heads_rate_moves_to_where_the_curve_allows_it_and_never_above_a_tenth(bend, expected, word):
    found = choose("find", curve_of(hockey_stick(bend, noise=0.02, fall=0.4, level=1.0)), unfrozen=False)
    assert found.lr == pytest.approx(expected, rel=0.3)
    assert word in found.reason


@pytest.mark.parametrize(("bend", "high"), [(3e-4, 3e-5), (3e-3, 5e-4), (2e-2, 5e-4), (0.2, 2e-3)])
def test_the_recipes_rates_move_together_and_only_where_the_curve_forbids_them(bend, high):
    curve = curve_of(hockey_stick(bend, noise=0.02, fall=0.4, level=1.0))
    found = choose(("find", 5e-4), curve, unfrozen=True, rule=(1e-4, 5e-4)).lr
    assert found == pytest.approx((high / 5, high), rel=0.3)


FITTED = {
    "ants": [
        0.098,
        0.083,
        0.116,
        0.135,
        0.1,
        0.124,
        0.107,
        0.083,
        0.103,
        0.103,
        0.06,
        0.157,
        0.128,
        0.169,
        1.302,
        10.6,
    ],
    "tiles": [0.24, 0.21, 0.21, 0.29, 0.28, 0.18, 0.21, 0.18, 0.173, 0.172, 0.217, 0.304, 0.779, 0.635, 1.372, 6.53],
    "digits": [0.384, 0.352, 0.303, 0.404, 0.365, 0.296, 0.305, 0.428, 0.249, 12.7],
}
"""Recorded: 200 images, all layers of EfficientNet-Lite0, the head solved; rates at the elbow make more errors."""


def fitted(losses) -> Curve:
    recorded = curve_of(losses, rates_between(1e-7, 10, 24)[: len(losses)])
    return replace(recorded, suggestions=suggest(recorded, 24))


def test_a_loss_that_begins_low_must_rise_by_that_of_a_guess_to_have_shot_up():
    elbows = [fitted(losses).suggestions["elbow"] for losses in FITTED.values()]
    assert elbows == pytest.approx([2.2e-4, 2.2e-4, 4.6e-6], rel=0.1)


def test_a_solved_head_keeps_the_recipes_rates_unless_the_loss_is_not_finite_there():
    for losses in FITTED.values():
        found = choose(("find", 5e-4), fitted(losses), unfrozen=True, rule=(1e-4, 5e-4), solved=True)
        assert found.lr == (1e-4, 5e-4)
        assert "solved" in found.reason
    broken = fitted([*FITTED["digits"][:9], math.nan])
    found = choose(("find", 5e-4), broken, unfrozen=True, rule=(1e-4, 5e-4), solved=True)
    assert found.lr == pytest.approx((2e-6, 1e-5))
    assert "not finite" in found.reason


FLAT, BEND = [1.0] * 100, {bend: hockey_stick(bend, noise=0.02) for bend in (1e-4, 1e-1)}


@pytest.mark.parametrize(
    ("lr", "losses", "options", "expected", "words"),
    [
        (("find", 5e-4), FLAT, {"unfrozen": True, "rule": (1e-4, 5e-4)}, (1e-4, 5e-4), "nowhere shoots up"),
        ("find", FLAT, {"unfrozen": False}, 3e-3, "default"),
        ("find", FLAT, {"unfrozen": True}, pytest.approx((3e-6, 3e-4)), "default"),
        (("find", 3e-4), FLAT, {"unfrozen": True}, pytest.approx((3e-6, 3e-4)), "default"),
        (("find", 3e-4), BEND[1e-4], {"unfrozen": True}, (pytest.approx(1e-5, rel=1), 3e-4), "elbow"),
        (("find", 3e-4), BEND[1e-1], {"unfrozen": True}, pytest.approx((3e-5, 3e-4)), "elbow"),
    ],
)
def test_below_an_upper_rate_is_the_elbow_or_the_lessons_default(lr, losses, options, expected, words):
    found = choose(lr, curve_of(losses), **options)
    assert found.lr == expected
    assert words in found.reason


def test_tests_that_cannot_be_are_refused():
    for wrong in ((0, 1, 100), (1, 0.1, 100), (1e-7, math.inf, 100)):
        with pytest.raises(PhaseError, match="start_lr"):
            rates_between(*wrong)
    with pytest.raises(PhaseError, match="num_steps=5"):
        rates_between(1e-7, 10, 5)
