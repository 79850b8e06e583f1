import pytest
import torch

from lightning_finetune.history import LIMIT, History


def record(history: History, steps: range) -> None:
    for step in steps:
        history.add(step, {"stem": 0.0, "head": step / 10}, torch.tensor(float(step)))


def test_steps_losses_and_rates_stay_together_when_it_is_thinned() -> None:
    history = History()
    record(history, range(5 * LIMIT))
    history.flush()
    assert LIMIT / 4 < len(history.steps) <= LIMIT
    assert history.steps == sorted(set(history.steps))
    assert history.losses == [float(step) for step in history.steps]
    assert history.rates["head"] == [step / 10 for step in history.steps]
    assert history.steps[-1] > 4.9 * LIMIT, "the end of the run must not be what is thinned away"


def test_a_step_of_several_batches_is_recorded_once() -> None:
    history = History()
    for loss in (1.0, 2.0):
        history.add(0, {"head": 0.1}, torch.tensor(loss))
    history.flush()
    assert (history.steps, history.losses) == ([0], [1.0])


def test_a_group_that_appears_later_was_frozen_before() -> None:
    history = History()
    history.add(0, {"head": 0.1}, torch.tensor(1.0))
    history.add(1, {"head": 0.1, "new": 0.2}, torch.tensor(1.0))
    assert history.rates == {"head": [0.1, 0.1], "new": [0.0, 0.2]}


def test_groups_keep_the_order_of_the_layers() -> None:
    history = History()
    history.add(0, dict.fromkeys("zyxabc", 0.1), torch.tensor(1.0))
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
