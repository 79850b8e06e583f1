"""What a phase accepts as its rates, parsed once."""

import pytest

from lightning_finetune.engine.rates import Rates, ends
from lightning_finetune.errors import PhaseError


@pytest.mark.parametrize(
    ("lr", "numbers", "high", "spread"),
    [
        (1e-3, [1e-3], 1e-3, [1e-3] * 3),
        ((1e-5, 1e-3), [1e-5, 1e-3], 1e-3, [1e-5, 1e-4, 1e-3]),
        ((None, 1e-3), [1e-3], 1e-3, [1e-4, 1e-4, 1e-3]),
        ([1e-4, 2e-4, 3e-4], [1e-4, 2e-4, 3e-4], 3e-4, [1e-4, 2e-4, 3e-4]),
        ("find", [], 3e-4, [3e-3] * 3),
        (("find", 1e-3), [1e-3], 1e-3, [1e-5, 1e-4, 1e-3]),
    ],
)
def test_each_form_is_one_thing(lr, numbers, high, spread):
    rates = Rates.of(lr)
    assert rates.numbers == ends(lr) == numbers
    assert rates.high(unfrozen=True) == pytest.approx(high)
    assert rates.spread(3) == pytest.approx(spread)
    assert rates.is_by_group(3) is isinstance(lr, list)


@pytest.mark.parametrize(
    ("lr", "scaled"),
    [
        (1e-3, 1e-2),
        ((1e-5, 1e-3), (1e-4, 1e-2)),
        ((None, 1e-3), (None, 1e-2)),
        ([1e-4, 2e-3, 1e-3], [5e-4, 1e-2, 5e-3]),
        (("find", 1e-3), ("find", 1e-2)),
    ],
)
def test_a_new_peak_keeps_ratios_and_form(lr, scaled):
    found = Rates.of(lr).scaled(1e-2)
    assert type(found) is type(scaled)
    if isinstance(scaled, float):
        assert found == scaled
    else:
        pairs = zip(found, scaled, strict=True)
        assert all(one == pytest.approx(other) if isinstance(other, float) else one == other for one, other in pairs)


@pytest.mark.parametrize("lr", ["fast", ("find", None), (1e-4, 1e-3, "find"), (0, "find"), {}])
def test_what_is_no_rate_is_refused(lr):
    with pytest.raises(PhaseError, match="`lr` of a phase"):
        Rates.of(lr)


def test_a_pair_that_is_upside_down_is_refused_and_a_list_is_one_rate_per_group():
    with pytest.raises(PhaseError, match=r"as \(low, high\).*got \(0.0003, 1e-05\)"):
        Rates.of((3e-4, 1e-5))
    assert Rates.of([3e-4, 1e-5, 1e-4]).values == (3e-4, 1e-5, 1e-4)
    assert Rates.of((1e-4, 1e-4)).values == (1e-4, 1e-4)
