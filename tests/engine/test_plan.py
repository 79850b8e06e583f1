import pytest

from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan
from lightning_finetune.errors import PhaseError

PHASES = [Phase(1, "head", 1e-2, 128), Phase(2, 2, (None, 1e-2), 160), Phase(1, "all", (1e-4, 1e-2))]


def test_each_step_knows_its_phase_its_layers_and_its_size():
    plan = make_plan(PHASES, 5, num_groups=4)
    assert len(plan) == 20
    assert plan.steps == (5, 10, 5)
    assert [state.phase for state in plan] == [0] * 5 + [1] * 10 + [2] * 5
    assert [state.trained for state in plan] == [1] * 5 + [2] * 10 + [4] * 5
    assert [state.size for state in plan] == [128] * 5 + [160] * 10 + [None] * 5


def test_frozen_groups_have_no_rate_and_trained_ones_spread_over_what_trains():
    plan = make_plan(PHASES, 5, num_groups=4)
    assert plan.rates(0) == (0, 0, 0, 1e-2)
    assert plan.rates(1) == pytest.approx((0, 0, 1e-3, 1e-2))
    assert plan.rates(2) == pytest.approx((1e-4, 1e-4 * 100 ** (1 / 3), 1e-4 * 100 ** (2 / 3), 1e-2))


def test_each_phase_is_a_cycle_of_its_own():
    plan = make_plan(PHASES, 40, num_groups=4)
    for phase, (first, total) in enumerate([(0, 40), (40, 80), (120, 40)]):
        assert plan[first].lrs[-1] == pytest.approx(1e-2 / 25)
        assert plan[first + total // 4].lrs[-1] == pytest.approx(1e-2), phase
        assert plan[first + total - 1].lrs[-1] < 1e-4


def test_the_state_at_an_epoch_is_that_of_its_steps():
    plan = make_plan(PHASES, [3, 5, 2, 4], num_groups=4)
    assert plan.steps == (3, 7, 4)
    step = 0
    for epoch, count in enumerate([3, 5, 2, 4]):
        for _ in range(count):
            assert plan.at(epoch, step) == plan[step]
            step += 1


def test_a_run_that_overruns_or_lags_stays_within_its_phase():
    plan = make_plan(PHASES, 5, num_groups=4)
    assert plan.at(0, 5) == plan[4]  # a sixth step in the first epoch
    assert plan.at(1, 4) == plan[5]  # a step was skipped, the epoch began all the same
    assert plan.at(9, 99) == plan[19]


def test_the_decoder_is_part_of_the_head():
    plan = make_plan(PHASES, 5, num_groups=5, num_head=2)
    assert plan[0].trained == 2
    assert plan.rates(0) == (0, 0, 0, 1e-2, 1e-2)


def test_norms_of_frozen_groups_that_train_have_the_rate_of_the_earliest_trained_group():
    plan = make_plan([Phase(1, 2, (1e-4, 1e-2)), Phase(1, "head", 3e-3)], 5, num_groups=4, train_norm=True)
    assert plan.rates(0) == pytest.approx((1e-4, 1e-4, 1e-4, 1e-2))
    assert plan.rates(1) == pytest.approx((3e-3,) * 4)  # as fastai with one number


def test_a_list_gives_each_group_its_rate():
    rates = [1e-5, 1e-4, 1e-3, 1e-2]
    assert make_plan([Phase(1, "all", rates)], 5, num_groups=4).rates(0) == pytest.approx(rates)
    assert make_plan([Phase(1, 2, rates)], 5, num_groups=4).rates(0) == pytest.approx((0, 0, 1e-3, 1e-2))
    with pytest.raises(PhaseError, match="4 numbers"):
        make_plan([Phase(1, "all", [1e-3] * 3)], 5, num_groups=4)


def test_what_a_phase_leaves_alone_stays_alone():
    state = make_plan([Phase(2, None, None)], 5)[3]
    assert (state.trained, state.lrs, state.momentum, state.size) == (None, None, None, None)


def test_more_groups_than_the_model_has_are_refused():
    with pytest.raises(PhaseError, match="Phase 2 trains 4 layer groups, but the model has 3"):
        make_plan([Phase(1), Phase(1, 4)], 5, num_groups=3)


def test_an_open_phase_ends_with_the_run():
    open_ = [Phase(1, "head"), Phase(None, "all")]
    assert make_plan(open_, 5, max_epochs=4).steps == (5, 15)
    assert make_plan(open_, 5, max_steps=12).steps == (5, 7)
    assert make_plan(open_, 5, max_epochs=4, max_steps=8).steps == (5, 3)
    assert make_plan([Phase(None)], None, max_steps=9).steps == (9,)


@pytest.mark.parametrize(
    ("phases", "run", "message"),
    [
        ([], {}, "at least one phase"),
        ([Phase(None), Phase(1)], {}, "Only the last"),
        ([Phase(2), Phase(None)], {"max_epochs": 2}, "begins at epoch 3.*max_epochs=2"),
        ([Phase(2), Phase(None)], {"max_steps": 10}, "Phase 2 would never be reached"),
        ([Phase(2), Phase(2)], {"max_steps": 10}, "Phase 2 would never be reached"),
        ([Phase(1), Phase(None)], {}, "neither `max_epochs` nor `max_steps`"),
    ],
)
def test_phases_that_do_not_fit_the_run_are_refused(phases, run, message):
    with pytest.raises(PhaseError, match=message):
        make_plan(phases, 5, **run)


def test_data_without_a_length_needs_one_phase_and_max_steps():
    with pytest.raises(PhaseError, match="limit_train_batches"):
        make_plan([Phase(1), Phase(None)], None, max_steps=9)
    with pytest.raises(PhaseError, match="max_steps"):
        make_plan([Phase(None)], None)


def test_a_plan_is_a_sequence():
    plan = make_plan(PHASES, 5, num_groups=4)
    assert plan[-1] == plan[19]
    assert plan[3:5] == [plan[3], plan[4]]
    with pytest.raises(IndexError):
        plan[20]


def test_a_found_rate_replaces_the_known_one():
    plan = make_plan([Phase(1, "head", "find"), Phase(1, "all", ("find", 3e-4))], 5)
    assert plan.rates(1) == pytest.approx((3e-6, 3e-5, 3e-4))
    assert plan.with_lr(1, (3e-5, 3e-4)).rates(1) == pytest.approx((3e-5, 3e-5 * 10**0.5, 3e-4))
    assert plan.with_lr(1, (3e-5, 3e-4)).rates(0) == plan.rates(0)
