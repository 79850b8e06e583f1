"""How long epochs are, and what of one is done."""

from fractions import Fraction

import pytest

from lightning_finetune.engine.epochs import Epoch, expected, same_part


def test_a_step_lies_behind_its_share_of_the_epoch():
    assert [Epoch(4).behind(step) for step in (-1, 0, 1, 3, 4, 9)] == [0, 0, Fraction(1, 4), Fraction(3, 4), 1, 1]


def test_of_an_epoch_of_unknown_length_nothing_is_done():
    assert [Epoch(None).behind(step) for step in (0, 5)] == [0, 0]


def test_an_epoch_with_two_lengths_goes_on_at_its_part():
    """Two of four steps, then half an epoch in four more of eight."""
    epoch = Epoch(6, 8, made=2, part=Fraction(1, 2))
    assert [float(epoch.behind(step)) for step in range(7)] == [0, 0.25, 0.5, 0.625, 0.75, 0.875, 1]


@pytest.mark.parametrize(
    ("said", "before", "steps", "is_estimate"),
    [
        (8, None, 8, False),
        (8, Epoch(8, 8), 8, False),
        (8, Epoch(5, 8), 5, True),  # it ended before the length that it says
        (4, Epoch(5, 8), 4, False),  # loaded anew
        (None, None, None, False),
        (None, Epoch(5, None), 5, True),
        (8, Epoch(5, 8, made=2, part=Fraction(1, 2)), 8, False),
    ],
)
def test_the_next_epoch_is_expected_by_what_the_data_say_unless_that_was_not_true(said, before, steps, is_estimate):
    found = expected(said, [before] if before else [])
    assert (found.steps, found.is_estimate, found.said) == (steps, is_estimate, said)


def test_the_same_part_of_other_batches_never_is_all_of_them():
    assert [same_part(done, 8, 4) for done in (1, 2, 4, 7)] == [0, 1, 2, 3]
    assert same_part(1, 2, 1) == 0
