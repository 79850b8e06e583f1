import pytest
import torch

from lightning_finetune.engine.history import LIMIT, History, Settings, planned
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.plan import make_plan


def record(history: History, steps: range) -> None:
    for step in steps:
        history.add(step, Settings({"stem": 0.0, "head": step / 10}), torch.tensor(float(step)))


def test_everything_of_a_step_stays_together_when_it_is_thinned() -> None:
    history = History()
    for step in range(5 * LIMIT):
        settings = Settings({"head": step / 10}, step / 1e5, (step, step), {"head": step % 7 / 7})
        history.add(step, settings, torch.tensor(float(step)))
    history.flush()
    assert LIMIT / 4 < len(history.steps) <= LIMIT
    assert history.steps == sorted(set(history.steps))
    assert history.losses == [float(step) for step in history.steps]
    assert history.rates["head"] == [step / 10 for step in history.steps]
    assert history.momentum == [step / 1e5 for step in history.steps]
    assert history.sizes == [(step, step) for step in history.steps]
    assert history.trained["head"] == [step % 7 / 7 for step in history.steps]
    assert history.steps[-1] > 4.9 * LIMIT, "the end of the run must not be what is thinned away"


def test_a_step_of_several_batches_is_recorded_once() -> None:
    history = History()
    for loss in (1.0, 2.0):
        history.add(0, Settings({"head": 0.1}), torch.tensor(loss))
    history.flush()
    assert (history.steps, history.losses) == ([0], [1.0])


def test_a_group_that_appears_later_was_frozen_before() -> None:
    history = History()
    history.add(0, Settings({"head": 0.1}), torch.tensor(1.0))
    history.add(1, Settings({"head": 0.1, "new": 0.2}), torch.tensor(1.0))
    assert history.rates == {"head": [0.1, 0.1], "new": [0.0, 0.2]}


def test_a_rate_that_the_device_holds_is_read_when_the_history_is_flushed() -> None:
    history = History()
    history.add(0, Settings({"head": torch.tensor(0.5, device="meta")}), torch.tensor(1.0))  # to read it would raise
    history.rates["head"][0] = torch.tensor(0.5)
    history.add(1, Settings({"head": 0.25}), torch.tensor(1.0))
    history.flush()
    assert [type(rate) for rate in history.rates["head"]] == [float, float]
    assert history.rates["head"] == [0.5, 0.25]


def test_groups_keep_the_order_of_the_layers() -> None:
    history = History()
    history.add(0, Settings(dict.fromkeys("zyxabc", 0.1)), torch.tensor(1.0))
    assert list(history.rates) == list("zyxabc")


def test_losses_stay_tensors_until_the_flush() -> None:
    history = History()
    record(history, range(10))
    assert history.losses == []
    history.flush()
    assert len(history.losses) == 10


def test_a_measurement_of_the_same_step_replaces_the_first() -> None:
    history = History()
    history.measure(3, {"val_loss": 1.0})
    history.measure(3, {"val_loss": 0.5})
    assert history.measured == {"val_loss": [(3, 0.5)]}
    history.measure(6, {"val_loss": 0.4})
    history.measure(3, {"val_loss": 0.3})
    assert history.measured == {"val_loss": [(6, 0.4), (3, 0.3)]}


@pytest.mark.parametrize("done", [10, 3 * LIMIT])
def test_continues_from_its_state(done: int) -> None:
    whole, first, second = History(), History(), History()
    record(whole, range(done + 50))
    record(first, range(done))
    second.load_state_dict(first.state_dict())
    record(second, range(done, done + 50))
    assert second.state_dict() == whole.state_dict()


def test_steps_belong_to_epochs() -> None:
    history = History()
    assert history.epoch_of(0) is None
    for epoch, step in ((0, 0), (1, 10), (1, 15), (2, 20)):  # within epoch 1 the run was resumed
        history.begin_epoch(epoch, step)
    assert [history.epoch_of(step) for step in (0, 9, 10, 19, 20, 99)] == [0, 0, 1, 1, 2, 2]


def test_the_history_of_a_plan_is_that_of_all_its_plans_together() -> None:
    trains = make_plan([Phase(1, "head", None), Phase(1, "all", None)], 10)
    rates = make_plan([Phase(2, None, (1e-3, 1e-1), size=32)], 10)
    found = planned([trains, rates], ["stem", "body", "head"], range(0, 24, 3), [0.2, 0.1, 0.3])
    assert found.steps == [0, 3, 6, 9, 12, 15, 18, 21]
    assert found.rates["head"][:7] == [rates[step].lrs[-1] for step in found.steps[:7]]
    assert found.rates["head"][7] == rates[19].lrs[-1], "a run that overruns its plan stays at its end"
    assert found.momentum[:7] == [rates[step].momentum for step in found.steps[:7]]
    assert found.trained == {"stem": [0.2] * 4 + [1.0] * 4, "body": [0.1] * 4 + [1.0] * 4, "head": [1.0] * 8}
    assert found.sizes == [(32, 32)] * 8
