from lightning_finetune.engine.history import History, Settings, planned
from lightning_finetune.show.report.phase_rows import phase_rows
from tests.show.report.runs import BANDS, NAMES, PLAN, history

MEANT = planned([PLAN], NAMES, range(40))
LABELS = [band.label for band in BANDS]


def test_a_run_that_follows_its_plan_is_its_plan():
    head, full = phase_rows(history(), PLAN, MEANT, LABELS, 40)
    assert head.actual == head.planned
    assert full.actual == full.planned
    assert head.planned == {
        "epochs": "2",
        "steps": "20",
        "trains": "head (1 of 3)",
        "highest rates": "1.0e-2",
        "momentum": "0.85 to 0.95",
        "size": "32 px",
    }
    assert (full.planned["trains"], full.planned["highest rates"]) == ("all 3 groups", "1.0e-4 to 1.0e-3")


def test_results_are_those_after_the_last_step_of_a_phase():
    rows = phase_rows(history(), PLAN, MEANT, LABELS, 40)
    assert [row.results["val_loss"] for row in rows] == [3 / 20, 3 / 40]


def test_a_run_that_ended_within_a_phase_shows_how_far_it_came():
    head, full = phase_rows(history(33), PLAN, MEANT, LABELS, 33)
    assert head.actual == head.planned
    assert (full.actual["epochs"], full.actual["steps"]) == ("2", "13")
    assert full.results["val_loss"] == 3 / 30
    _, never = phase_rows(history(13), PLAN, MEANT, LABELS, 13)
    assert (never.actual, never.results) == ({}, {})


def test_phases_last_as_long_as_their_epochs_did():
    """Of a loader that gave fewer batches than it said."""
    short = history(20)
    short.epochs = [0, 5, 10, 15]
    head, full = phase_rows(short, PLAN, MEANT, LABELS, 20)
    assert (head.actual["steps"], full.actual["steps"]) == ("10", "10")


def test_what_changes_within_a_phase_is_listed():
    found = history()
    found.trained["body"][30:] = [0.0] * 10
    found.trained["stem"][5] = 0.25
    found.sizes[39] = (16, 48)
    head, full = phase_rows(found, PLAN, MEANT, LABELS, 40)
    assert head.actual["trains"] == "head (1 of 3), then head (1 of 3) and up to 25.0% of the others"
    assert full.actual["trains"] == "all 3 groups, then stem to head (2 of 3)"
    assert full.actual["size"] == "64 px, then 16 px"


def test_without_a_plan_the_run_is_one_row():
    [row] = phase_rows(history(), None, None, [], 40)
    assert (row.planned, row.actual["epochs"], row.actual["steps"]) == ({}, "4", "40")


def test_rates_that_are_not_set_by_layer_group_are_shown_as_they_are():
    found = History()
    found._append(0, Settings({"group 0": 1e-3, "group 1": 0.1}, trained={"stem": 0.0, "head": 1.0}))
    [row] = phase_rows(found, None, None, [], 1)
    assert (row.actual["highest rates"], row.actual["momentum"], row.actual["size"]) == ("1.0e-3 to 1.0e-1", "", "")


def test_nothing_trains():
    found = History()
    found._append(0, Settings({"head": 0.0}, trained={"head": 0.0}))
    [row] = phase_rows(found, None, None, [], 1)
    assert (row.actual["trains"], row.actual["highest rates"]) == ("nothing", "")
