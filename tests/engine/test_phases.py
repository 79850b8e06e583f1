import pytest

from lightning_finetune.callbacks import BestCheckpoint
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("epochs", 2.0),
        ("epochs", True),
        ("train", 0),
        ("train", "body"),
        ("train", True),
        ("size", 0),
        ("size", 128.0),
        ("schedule", "cosine"),
        ("pct_start", 1.5),
        ("pct_start", float("nan")),
        ("div", 0.5),
        ("div_final", 0),
        ("moms", (0.9, 0.8)),
        ("moms", (0.9, 0.8, 1.0)),
        ("lr", "search"),
        ("lr", "up"),
        ("lr", ("find", None)),
        ("lr", ("find", -1e-3)),
        ("lr", (1e-4, 1e-3, "find")),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value):
    with pytest.raises(PhaseError, match=rf"`{field}`.*got"):
        Phase(**{"epochs": 1, field: value})


@pytest.mark.parametrize("lr", [0, -1e-3, float("inf"), (0, 1e-3), (1e-3, None), [1e-3, -1e-3, 1e-3]])
def test_a_rate_that_cannot_be_is_refused_when_the_phase_is_made(lr):
    with pytest.raises(PhaseError, match="learning rate"):
        Phase(1, lr=lr)


@pytest.mark.parametrize(
    ("lr", "needs", "known"),
    [
        (1e-3, False, 1e-3),
        ((1e-5, 1e-3), False, [1e-5, 1e-3]),
        ((None, 1e-3), False, [None, 1e-3]),
        ("find", True, 3e-3),
        (("find", 3e-4), True, [3e-6, 3e-4]),
        ((1e-6, "find"), True, [1e-6, 3e-4]),
        (("find", "find"), True, [3e-6, 3e-4]),
        ((None, "find"), True, [None, 3e-4]),
    ],
)
def test_what_is_known_of_a_rate_before_the_range_test(lr, needs, known):
    phase = Phase(1, lr=lr)
    assert phase.needs_find is needs
    found = phase.known_lr
    assert (list(found) if isinstance(found, (tuple, list)) else found) == pytest.approx(known)


@pytest.mark.parametrize(
    ("metric", "mode", "warns"),
    [
        ("val_accuracy", "min", True),
        ("val/mIoU", "min", True),
        ("val_accuracy", "max", False),
        ("val_dice_loss", "min", False),
        ("val_mae", "min", False),
    ],
)
def test_the_lowest_of_what_should_rise_is_warned_of(metric, mode, warns, recwarn):
    Phase(3, "all", 1e-3, until=metric, mode=mode)
    BestCheckpoint(metric, mode)
    said = [str(warning.message) for warning in recwarn if f"the lowest {metric}" in str(warning.message)]
    assert [words.split()[0] for words in said] == (["Phase", "BestCheckpoint"] if warns else [])
