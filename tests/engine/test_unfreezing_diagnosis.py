import pytest

from lightning_finetune.engine.diagnosis import Curves
from lightning_finetune.engine.unfreezing_diagnosis import diagnose_unfreezing, longer_first

HEAD = [1.5 - 0.02 * step for step in range(30)]
FALLS, CREEPS = [0.9 - 0.028 * step for step in range(30)], [0.9 - 0.003 * step for step in range(30)]


def part(losses, valid, errors, start=0) -> Curves:
    ends = [start + len(losses) * (place + 1) // len(valid) for place in range(len(valid))]
    measured = {"val_loss": list(zip(ends, valid, strict=True))}
    if errors:
        measured["val_error_rate"] = list(zip(ends, errors, strict=True))
    return Curves(list(range(start, start + len(losses))), list(losses), measured)


BEFORE = part(HEAD, [1.2, 1.0], [0.30, 0.25])


def named(after: Curves, before: Curves = BEFORE, train_norm: bool = False) -> list[tuple[str, bool]]:
    return [(finding.name, finding.fault) for finding in diagnose_unfreezing(before, after, train_norm)]


def test_an_unfreezing_that_pays_is_not_accused_nor_is_one_that_recovers():
    assert named(part(FALLS, [0.8, 0.6], [0.2, 0.15], 30)) == []
    assert named(part(FALLS, [1.6, 0.9, 0.6], [0.4, 0.25, 0.15], 30)) == [], "a dip is no fault"


def test_an_unfreezing_that_ends_worse_is_named_with_what_was_lost():
    after = part(FALLS, [1.6, 1.4], [0.4, 0.33], 30)
    (found,) = diagnose_unfreezing(BEFORE, after, False)
    assert (found.name, found.fault) == ("unfreezing made it worse", True)
    assert "was 1 before it and ended at 1.4" in found.evidence
    assert "0.08" in found.evidence
    assert "by 10" in found.advice
    (norms,) = diagnose_unfreezing(BEFORE, after, True)
    assert "train_norm=False" in norms.advice


def test_without_a_metric_the_loss_alone_says_it():
    before = Curves(BEFORE.steps, BEFORE.losses, {"val_loss": BEFORE.measured["val_loss"]})
    assert named(part(FALLS, [1.6, 1.4], [], 30), before) == [("unfreezing made it worse", True)]
    assert named(part(FALLS, [0.8, 0.6], [], 30), before) == []
    assert named(Curves(list(range(30, 60)), FALLS), Curves(BEFORE.steps, BEFORE.losses)) == []


def test_a_best_epoch_before_the_unfreezing_is_a_note():
    after = part(FALLS, [0.85, 0.7], [0.27, 0.26], 30)
    assert named(after) == [("the best epoch was before the unfreezing", False)]
    (found,) = diagnose_unfreezing(BEFORE, after, False)
    assert "best at step 30" in found.evidence


def test_an_accuracy_is_better_when_it_is_more():
    def as_accuracy(of: Curves) -> Curves:
        points = [(step, 1 - value) for step, value in of.measured["val_error_rate"]]
        return Curves(of.steps, of.losses, {"val_loss": of.measured["val_loss"], "val_accuracy": points})

    for valid, errors in (([0.8, 0.6], [0.2, 0.15]), ([1.6, 1.4], [0.4, 0.33]), ([0.85, 0.7], [0.27, 0.26])):
        after = part(FALLS, valid, errors, 30)
        assert named(as_accuracy(after), as_accuracy(BEFORE)) == named(after)


@pytest.mark.parametrize("errors", [[0.25, 0.24], [0.25, 0.26]])
def test_layers_that_hardly_move_have_rates_too_low_whatever_the_metric_does_by_chance(errors):
    assert named(part(CREEPS, [0.99, 0.97], errors, 30)) == [("rate of the unfrozen layers too low", True)]
    assert named(part(CREEPS[:6], [0.99, 0.97], [0.25, 0.24], 30)) == [], "six steps say little"


def test_a_head_that_was_still_learning_when_all_was_unfrozen():
    before, after = part(HEAD, [1.0, 0.6], []), part(FALLS, [0.9, 0.5], [], 30)
    assert [finding.name for finding in longer_first(before, after)] == ["frozen phase too short"]
    assert longer_first(part(HEAD, [1.0, 0.98], []), after) == []
