import pytest

from lightning_finetune.engine.recipes import RECIPES, Wishes, make_phases
from lightning_finetune.errors import PhaseError

MEASURED, LESSONS = RECIPES["measured"], RECIPES["lessons"]


def test_the_lessons_recipe_is_theirs():
    head, full = make_phases(LESSONS, Wishes(), head_is_new=True)
    assert (head.epochs, head.train, head.lr) == (4, "head", 3e-3)
    assert (full.epochs, full.train) == (4, "all")
    assert full.lr == pytest.approx((3e-6, 3e-4))
    assert LESSONS.train_norm
    assert not LESSONS.solves


def test_a_head_that_is_solved_leaves_every_epoch_to_all_layers():
    [full] = make_phases(MEASURED, Wishes(), head_is_new=False)
    assert (full.epochs, full.train) == (8, "all")
    assert full.lr == pytest.approx((1e-4, 5e-4))


def test_a_random_head_is_trained_alone_first():
    head, full = make_phases(MEASURED, Wishes(), head_is_new=True)
    assert (head.epochs, head.train, head.lr) == (1, "head", 3e-3)
    assert (full.epochs, full.train) == (7, "all")
    assert full.lr == pytest.approx((1e-4, 3e-3))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("recipe", [MEASURED, LESSONS])
@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 30])
def test_as_many_epochs_as_are_asked_for(recipe, new, epochs):
    phases = make_phases(recipe, Wishes(epochs=epochs), new)
    assert sum(phase.epochs for phase in phases) == epochs


@pytest.mark.parametrize(
    ("wishes", "epochs"),
    [
        ({"head_epochs": 2, "full_epochs": 3}, [2, 3]),
        ({"head_epochs": 2}, [2, 8]),
        ({"full_epochs": 3}, [3]),
        ({"epochs": 5, "head_epochs": 2}, [2, 3]),
        ({"epochs": 5, "full_epochs": 5}, [5]),
        ({"epochs": 5, "full_epochs": 2}, [3, 2]),
        ({"head_epochs": 1, "full_epochs": 0}, [1]),
    ],
)
def test_a_number_that_is_given_wins(wishes, epochs):
    assert [phase.epochs for phase in make_phases(MEASURED, Wishes(**wishes), head_is_new=False)] == epochs


def test_rates_that_are_given_win():
    head, full = make_phases(LESSONS, Wishes(lr=6e-3, lr_ratio=5, find=False), head_is_new=True)
    assert head.lr == 6e-3
    assert full.lr == pytest.approx((1.2e-5, 1.2e-3))
    [full] = make_phases(MEASURED, Wishes(lr=6e-3), head_is_new=False)
    assert full.lr == pytest.approx((2e-4, 1e-3))


def test_each_larger_size_has_both_phases_of_the_lessons_at_a_third_of_the_rate():
    wishes = Wishes(head_epochs=2, full_epochs=3, lr=6e-3, lr_ratio=5, sizes=[128, 224], find=True)
    phases = make_phases(LESSONS, wishes, head_is_new=True)
    assert [(p.epochs, p.train, p.size) for p in phases] == [
        (2, "head", 128),
        (3, "all", 128),
        (2, "head", 224),
        (3, "all", 224),
    ]
    assert phases[0].lr == phases[2].lr == "find"
    assert phases[1].lr == ("find", pytest.approx(1.2e-3))
    assert phases[3].lr == ("find", pytest.approx(4e-4))


def test_a_head_is_new_once():
    phases = make_phases(MEASURED, Wishes(sizes=[128, 224]), head_is_new=True)
    assert [(p.train, p.size) for p in phases] == [("head", 128), ("all", 128), ("all", 224)]


@pytest.mark.parametrize(
    "numbers",
    [
        {"head_epochs": 0, "full_epochs": 0},
        {"head_epochs": -1},
        {"lr_ratio": 0},
        {"lr": 0},
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": 4, "head_epochs": 2, "full_epochs": 2},
        {"epochs": 4, "head_epochs": 5},
    ],
)
def test_numbers_that_make_no_recipe_are_refused(numbers):
    with pytest.raises(PhaseError):
        make_phases(MEASURED, Wishes(**numbers), head_is_new=True)
