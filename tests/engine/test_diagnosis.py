import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_finetune.engine.diagnosis import Curves, diagnose, read_csv
from lightning_finetune.errors import DataError

RECORDED = Path(__file__).parents[2] / "benchmarks/diagnosis_runs.json"


def curves(losses, valid=(), errors=()) -> Curves:
    """A run of so many steps, measured at equal distances."""
    steps = range(len(losses))
    ends = [len(losses) * (place + 1) // max(len(valid), 1) for place in range(len(valid))]
    measured = {"val_loss": list(zip(ends, valid, strict=True))} if valid else {}
    if errors:
        measured["val_error_rate"] = list(zip(ends, errors, strict=True))
    return Curves(list(steps), list(losses), measured)


def faults(of: Curves) -> list[str]:
    return [finding.name for finding in diagnose(of) if finding.fault]


FALLING = [2.0 * math.exp(-step / 20) + 0.1 for step in range(120)]


@pytest.mark.parametrize(
    ("losses", "valid", "errors", "expected"),
    [
        pytest.param(FALLING, [0.3, 0.21, 0.2], [0.3, 0.2, 0.1], [], id="falls and levels off"),
        pytest.param(FALLING, [0.9, 0.8, 0.8], [0.3, 0.25, 0.25], [], id="below the validation loss"),
        pytest.param(
            [0.7, 5.0, 9.0, 12.0, 12.2, 12.2],
            [1.1e9],
            [0.766],
            ["learning rate too high"],
            id="explodes, as in lesson 2",
        ),
        pytest.param([2.3 - k * 0.001 for k in range(100)], [2.25, 2.2], [], ["learning rate too low"], id="creeps"),
        pytest.param([2.3 - k * 0.03 for k in range(60)], [1.0], [0.3], ["too few epochs"], id="still falls"),
        pytest.param(
            [2.3, 2.3, 2.3, 2.25, 2.2, 2.1, 2.0, 1.9, 1.8],
            [1.9],
            [0.9],
            ["too few epochs"],
            id="still falls, few steps",
        ),
        pytest.param([0.693] * 50, [0.693, 0.693], [0.5, 0.5], ["dead head"], id="learns nothing"),
    ],
)
def test_a_loss_is_judged_by_its_course(losses, valid, errors, expected):
    assert faults(curves(losses, valid, errors)) == expected


def test_a_loss_that_explodes_and_stays_at_chance_is_a_rate_too_high():
    exploding = [2.3, 40.0, 25.0, 19.0, 15.0, 12.0, 9.0, 7.0, *[2.4] * 50]
    (found,) = [finding for finding in diagnose(curves(exploding, [2.4])) if finding.fault]
    assert found.name == "learning rate too high"
    assert "began at 2.3" in found.evidence
    assert "Divide" in found.advice


def test_where_only_the_validation_loss_rose_only_that_is_said_to_have_risen():
    (found,) = [finding for finding in diagnose(curves(FALLING, [9.0])) if finding.fault]
    assert found.evidence == "The training loss began at 2.1, and the validation loss rose to 9."


def test_worse_loss_and_worse_metric_are_too_many_epochs_and_one_alone_is_not():
    rising = [0.9, 0.5, 0.6, 0.9, 1.3]
    assert faults(curves(FALLING, rising, [0.3, 0.1, 0.12, 0.15, 0.2])) == ["too many epochs"]
    (note,) = diagnose(curves(FALLING, rising, [0.3, 0.2, 0.15, 0.12, 0.1]))
    assert (note.name, note.fault) == ("train/valid gap", False)
    assert faults(curves(FALLING, [0.5, 0.3, 0.3, 0.3, 0.3], [0.1, 0.1, 0.12, 0.15, 0.2])) == []


def test_an_image_or_two_of_a_small_validation_set_are_not_too_many_epochs():
    """48 images: a step of the error rate is 1 / 48."""
    rising = [0.5, 0.4, 0.5, 0.6, 0.7]
    assert faults(curves(FALLING, rising, [12 / 48, 10 / 48, 11 / 48, 12 / 48, 12 / 48])) == []
    assert faults(curves(FALLING, rising, [12 / 48, 10 / 48, 11 / 48, 12 / 48, 14 / 48])) == ["too many epochs"]


def test_an_accuracy_is_better_when_it_is_more():
    measured = {"val_loss": [(40, 0.3), (80, 0.5), (120, 0.9)], "val_accuracy": [(40, 0.7), (80, 0.8), (120, 0.9)]}
    assert faults(Curves(list(range(120)), FALLING, measured)) == []
    measured["val_accuracy"] = [(40, 0.9), (80, 0.8), (120, 0.7)]
    assert faults(Curves(list(range(120)), FALLING, measured)) == ["too many epochs"]


SOLVED = [0.1, 0.111, 0.074, 0.023, 0.073, 0.072, 0.005, 0.005, 0.019, 0.002, 0.001, 0.004, 0.0005, 0.0006, 0.001]
"""A recorded run of 48 ants and bees whose head was solved: it fits its training images before the first step."""


def test_a_head_that_was_solved_begins_low_and_is_not_accused():
    assert faults(curves(SOLVED, [0.46, 0.47, 0.49, 0.47, 0.46], [0.22, 0.21, 0.21, 0.22, 0.21])) == []
    assert faults(curves([0.05, 0.13, 0.12, 0.14, *SOLVED], [0.46, 0.47], [0.22, 0.21])) == [], "its batches differ"


def test_a_head_that_was_solved_has_little_to_lose():
    assert faults(curves([0.4 - 0.002 * step for step in range(40)], [1.1, 0.9, 0.8], [0.3, 0.28, 0.27])) == []


def test_a_head_that_was_solved_may_dip_where_the_rate_peaks_if_the_run_ends_at_its_best():
    dips = [0.42, 0.27, 0.89, 1.2, 4.0, 3.5, 1.5, 0.6, 0.5, 0.4, 0.3, 0.24, 0.18, 0.14]
    assert faults(curves(dips, [1.1, 3.2, 0.47, 0.45], [0.25, 0.39, 0.19, 0.17])) == []
    assert faults(curves(dips, [1.1, 3.2, 1.4, 1.2], [0.25, 0.39, 0.35, 0.33])) == ["learning rate too high"]


def test_the_default_run_of_244_ants_and_bees_is_not_accused():
    """Its first validation loss is 21 times its first training loss, as it is sure of every training image."""
    losses = [0.0286, 0.03, 0.4, 0.28, 0.74, 1.12, 0.6, 0.3, 0.19, 0.1, 0.06, 0.04, 0.03, 0.02, 0.017, 0.017]
    loss = [0.588, 1.008, 0.547, 1.073, 0.447, 0.454, 0.524, 0.497]
    assert faults(curves(losses, loss, [0.183, 0.222, 0.144, 0.242, 0.137, 0.137, 0.098, 0.105])) == []


@pytest.mark.parametrize("losses", [[0.1, 1.1, 25.0, 2.0, 7.0, 10.0, *[2.0] * 10], SOLVED])
def test_a_rate_too_high_is_seen_also_where_the_head_was_solved(losses):
    assert faults(curves(losses, [3.3, 0.7, 19.0, 12.0], [0.55, 0.45, 0.55, 0.45])) == ["learning rate too high"]


def test_what_is_lost_after_a_dip_is_no_more_than_all():
    losses = [0.03, 0.01, 0.1, 0.5, 0.17, 0.02, 0.08]  # of seven steps, the head solved
    (finding,) = diagnose(Curves(list(range(7)), losses, {"val_loss": [(6, 0.6)]}))
    (lost,) = re.findall(r"lost (\d+)%", finding.evidence)
    assert 0 < int(lost) <= 100


@pytest.mark.parametrize("steps", [1, 3, 6, 9, 29])
def test_so_few_steps_do_not_say_that_the_rate_is_too_low(steps):
    (found,) = diagnose(curves([2.3 - step * 0.001 for step in range(steps)], [2.29], [0.9]))
    assert (found.name, found.fault) == ("too few steps to judge", False)
    assert f"In {steps} step" in found.evidence


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_step(bad):
    (found,) = diagnose(curves([1.0, 0.9, bad, 0.8, 0.7]))
    assert found.name == "non-finite loss"
    assert "step 2" in found.evidence


def test_a_hard_image_in_a_batch_of_a_solved_head_is_no_spike():
    """Its training loss is next to nothing, and one image that is wrong is many times that."""
    losses = [0.05 + 0.45 * (step % 29 == 7) for step in range(248)]
    measured = {"val_loss": [(62 * epoch, 0.2 - 0.02 * epoch) for epoch in range(1, 5)]}
    assert "loss spike" not in {finding.name for finding in diagnose(Curves(range(248), losses, measured))}


def test_a_spike_is_a_note():
    spiky = [*FALLING[:60], 9.0, *FALLING[60:]]
    (found,) = diagnose(curves(spiky, [0.31, 0.3], [0.2, 0.1]))
    assert (found.name, found.fault) == ("loss spike", False)
    assert "step 60" in found.evidence


@settings(max_examples=200, deadline=None)
@given(
    losses=st.lists(st.floats(0, 1e6), max_size=80),
    valid=st.lists(st.floats(0, 1e6), max_size=6),
    errors=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_any_curves_give_at_most_one_fault_in_whole_sentences(losses, valid, errors):
    found = diagnose(curves(losses, valid, errors[: len(valid)]))
    assert sum(finding.fault for finding in found) <= 1
    assert all(text.endswith(".") for finding in found for text in (finding.evidence, finding.advice))


def test_the_recorded_runs_are_told_apart():
    """Of the half that did not choose the limits; benchmarks/diagnosis.py gives the whole table."""
    alike = {"high": {"learning rate too high", "non-finite loss"}, "low": {"learning rate too low", "dead head"}}
    right = total = 0
    for run in json.loads(RECORDED.read_text()):
        if run["seed"] % 4 >= 2 and run["fault"] in alike:
            measured = {name: [tuple(point) for point in points] for name, points in run["measured"].items()}
            found = set(faults(Curves(run["steps"], run["losses"], measured)))
            right += bool(found & alike[run["fault"]])
            total += 1
    assert total >= 14
    assert right >= 0.9 * total


def test_a_csv_of_any_run(tmp_path):
    rows = ["epoch,step,train_loss,val_loss,val_acc", *(f"0,{step},{loss}," + "," for step, loss in enumerate(FALLING))]
    rows += [
        f"{epoch},{40 * epoch + 39},,{loss},{accuracy}" for epoch, loss, accuracy in ((0, 0.4, 0.8), (1, 0.9, 0.6))
    ]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    read = read_csv(tmp_path / "metrics.csv")
    np.testing.assert_allclose(read.losses, FALLING)
    assert read.measured == {"val_loss": [(40, 0.4), (80, 0.9)], "val_acc": [(40, 0.8), (80, 0.6)]}
    assert faults(read) == ["too many epochs"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2", "step,train_loss\n1,x"])
def test_a_csv_of_something_else_is_named(tmp_path, text):
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(DataError, match=r"other\.csv: expected"):
        read_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_csv(tmp_path / "nowhere.csv")
