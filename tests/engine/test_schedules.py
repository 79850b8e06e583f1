"""One cycle against the closed form of fastai, written here on its own in numpy."""

import numpy as np
import pytest

from lightning_finetune.engine import schedules
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan
from lightning_finetune.errors import PhaseError

SHARES = [0.0, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0]
TOTALS = [*range(1, 51), *range(51, 2001, 97), 2000]


def half_cosine(start: float, end: float, position: np.ndarray) -> np.ndarray:
    return start + (1 + np.cos(np.pi * (1 - position))) * (end - start) / 2


def combined(share: float, start: float, middle: float, end: float, position: np.ndarray) -> np.ndarray:
    """fastai's ``combined_cos``: the pieces meet at ``share``, and the later piece owns the point where they meet."""
    result = np.empty_like(position)
    first = position < share
    result[first] = half_cosine(start, middle, position[first] / share) if share else 0
    result[~first] = half_cosine(middle, end, (position[~first] - share) / (1 - share)) if share < 1 else middle
    return result


@pytest.mark.parametrize("share", SHARES)
def test_a_plan_follows_fastai_for_each_group_and_momentum(share):
    for total in TOTALS:
        phase = Phase(1, "all", (1e-5, 1e-3), pct_start=share, div=5, div_final=1e4, moms=(0.9, 0.8, 0.95))
        plan = make_plan([phase], total, num_groups=3)
        position = np.arange(total) / total
        for group, peak in enumerate([1e-5, 1e-4, 1e-3]):
            expected = combined(share, peak / 5, peak, peak / 1e4, position)
            ours = [plan.state(0, step).lrs[group] for step in range(total)]
            np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-12)
        moms = [plan.state(0, step).momentum for step in range(total)]
        np.testing.assert_allclose(moms, combined(share, 0.9, 0.8, 0.95, position), rtol=1e-9)


@pytest.mark.parametrize("total", [1, 7, 100])
def test_flat_cos_is_flat_then_half_a_cosine_with_momentum_left_alone(total):
    plan = make_plan([Phase(1, "all", 1e-3, schedule="flat_cos")], total)
    position = np.arange(total) / total
    expected = np.where(position < 0.75, 1e-3, half_cosine(1e-3, 1e-8, (position - 0.75) / 0.25))
    np.testing.assert_allclose([state.lrs[-1] for state in plan], expected, rtol=1e-9)
    assert {state.momentum for state in plan} == {None}


def test_constant_is_the_peak_at_every_step():
    plan = make_plan([Phase(2, "all", (1e-4, 1e-2), schedule="constant")], 10, num_groups=3)
    for state in plan:
        np.testing.assert_allclose(state.lrs, [1e-4, 1e-3, 1e-2])
        assert state.momentum is None


def test_the_schedules_own_shares_are_fastais():
    rates = [schedules.rate("one_cycle", 1, i / 100, div=25, div_final=1e5) for i in range(100)]
    assert np.argmax(rates) == 25
    flat = [schedules.rate("flat_cos", 1, i / 100, div=25, div_final=1e5) for i in range(100)]
    assert sum(rate == 1 for rate in flat) == 76  # up to and with step 75


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_a_pair_spreads_geometrically(groups):
    rates = schedules.spread((1e-6, 1e-4), groups)
    expected = [1e-4] if groups == 1 else np.geomspace(1e-6, 1e-4, groups)
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_an_open_pair_is_fastais_slice_of_one_end(groups):
    np.testing.assert_allclose(schedules.spread((None, 2e-3), groups), [2e-4] * (groups - 1) + [2e-3])


def test_one_number_goes_to_all_and_a_list_to_each():
    assert schedules.spread(1e-3, 3) == [1e-3] * 3
    assert schedules.spread([1e-3, 5e-3, 2e-3], 3) == [1e-3, 5e-3, 2e-3]


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ((1e-3, None), "higher"),
        ((0, 1e-3), "positive"),
        ((-1e-3, 1e-3), "positive"),
        (0.0, "positive"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        ([1e-3] * 4, "3 numbers"),
        ([1e-3, None, 1e-3], "3 numbers"),
    ],
)
def test_rates_that_cannot_be_are_refused(rate, message):
    with pytest.raises(PhaseError, match=message):
        schedules.spread(rate, 3)


def test_a_function_of_progress_is_a_schedule():
    plan = make_plan([Phase(2, "all", (1e-4, 1e-2), schedule=lambda progress: (1 - progress) ** 2)], 5, num_groups=3)
    expected = [(1 - step / 10) ** 2 for step in range(10)]
    np.testing.assert_allclose([state.lrs[-1] for state in plan], [1e-2 * part for part in expected])
    np.testing.assert_allclose([state.lrs[0] for state in plan], [1e-4 * part for part in expected])
    assert {state.momentum for state in plan} == {None}


@pytest.mark.parametrize("part", [-0.1, float("nan"), float("inf"), None, "high"])
def test_a_function_that_gives_no_part_of_the_peak_is_refused_when_the_phase_is_made(part):
    def odd(progress: float) -> float:
        return part

    with pytest.raises(PhaseError, match=r"schedule odd to give a part .* at progress 0.0 it gave"):
        Phase(1, schedule=odd)
