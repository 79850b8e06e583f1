import math

import pytest

from lightning_finetune.engine.diagnosis import Curves, diagnose
from lightning_finetune.engine.phase_diagnosis import diagnose_phase, diagnose_run
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
