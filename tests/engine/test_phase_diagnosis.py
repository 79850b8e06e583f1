import math

import pytest

from lightning_finetune.engine.diagnosis import Curves, diagnose
from lightning_finetune.engine.phase_diagnosis import diagnose_phase, diagnose_run, diagnose_unfreezing, longer_first
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan

FALLING = [2.0 * math.exp(-step / 10) + 0.1 for step in range(60)]
LOW = [0.1] * 60
EXPLODING = [0.1, *[9.0] * 59]
PLAN = make_plan([Phase(2, "head", 1e-2), Phase(2, "all", 1e-3)], 30)


def run(*losses: float, valid=()) -> Curves:
    ends = [30 * (place + 1) for place in range(len(valid))]
    return Curves(list(range(len(losses))), list(losses), {"val_loss": list(zip(ends, valid, strict=True))})


def names(found: dict) -> dict[int, list[str]]:
    return {phase: [finding.name for finding in findings] for phase, findings in found.items()}


def test_a_phase_is_judged_when_all_its_epochs_have_ended():
    curves = run(*FALLING, *EXPLODING)
    for epochs, phases in ((1, set()), (2, {1}), (3, {1}), (4, {1, 2})):
        assert set(diagnose_run(curves, PLAN, epochs)) - {0} == phases


def test_what_a_phase_says_the_run_does_not_say_again():
    found = names(diagnose_run(run(*FALLING, *EXPLODING), PLAN, 4))
    assert found == {1: [], 2: ["learning rate too high"], 0: []}
    assert names(diagnose_run(run(*FALLING, *EXPLODING), PLAN, 3))[0] == ["learning rate too high"]


def test_a_later_phase_with_little_left_to_learn_is_not_accused():
    flat = run(*FALLING, *LOW)
    assert diagnose_phase(flat, PLAN, 1) == []
    assert diagnose(flat.between(60, 120)), "by itself it would be"
    twice = run(*FALLING, *[0.1, *[0.35] * 59])
    assert diagnose_phase(twice, PLAN, 1) == [], "a multiple of next to nothing"


def test_a_frozen_phase_is_too_short_only_where_it_was_healthy():
    valid = (1.0, 0.5, 0.8, 0.4)
    assert names(diagnose_run(run(*FALLING, *LOW, valid=valid), PLAN, 4))[2] == ["frozen phase too short"]
    sick = names(diagnose_run(run(*[1.0, *[9.0] * 59], *LOW, valid=valid), PLAN, 4))
    assert (sick[1], "frozen phase too short" in sick[2]) == (["learning rate too high"], False)


def test_without_phases_or_with_one_the_whole_run_is_judged():
    curves = run(*EXPLODING)
    assert names(diagnose_run(curves, None, 4)) == {0: ["learning rate too high"]}
    assert names(diagnose_run(curves, make_plan([Phase(2)], 30), 2)) == {0: ["learning rate too high"]}


def test_a_run_without_a_step_says_nothing():
    assert names(diagnose_run(run(), PLAN, 4)) == {1: [], 2: [], 0: []}


def test_an_unfreezing_that_made_it_worse_is_not_blamed_on_the_epochs():
    losses, errors = (1.0, 0.6, 1.0, 1.2), (0.3, 0.2, 0.3, 0.3)
    curves = run(*FALLING, *[0.6 * 0.95**step for step in range(60)], valid=losses)
    measured = {**curves.measured, "val_error_rate": [(30 * (n + 1), error) for n, error in enumerate(errors)]}
    curves = Curves(curves.steps, curves.losses, measured)
    assert [finding.name for finding in diagnose(curves)] == ["too many epochs"], "by itself the run would be"
    found = names(diagnose_run(curves, PLAN, 4))
    assert found[0] == []
    assert "unfreezing made it worse" in found[2]


@pytest.mark.parametrize(("steps", "reached"), [(1, False), (2, True), (3, True), (50, True)])
def test_a_cycle_of_one_step_never_reaches_its_peak(steps, reached):
    for phases in ([Phase(1, "head", 1e-2), Phase(1, "all", (1e-4, 1e-3))], [Phase(1, "all", 1e-2)]):
        plan = make_plan(phases, steps)
        found = names(diagnose_run(run(*[1.0] * len(plan)), plan, len(phases)))
        told = [name for each in found.values() for name in each if "peak" in name]
        assert told == ([] if reached else ["the peak is never reached"] * len(phases))


def test_a_constant_rate_has_no_peak_to_reach():
    plan = make_plan([Phase(1, "all", 1e-2, schedule="constant")], 1)
    assert [finding.name for finding in diagnose_run(run(1.0), plan, 1)[0]] == ["too few steps to judge"]


# -- an unfreezing -----------------------------------------------------------------------------------------------------

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
