import pytest
import torch

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.measures.finite import FiniteLoss


def test_names_the_first_batch_and_its_rates():
    finite = FiniteLoss()
    for batch, loss in enumerate([1.0, 2.0, float("inf"), 1.0, float("nan")]):
        finite.watch(torch.tensor(loss), batch, [1e-5 * (batch + 1), 1e-3 * (batch + 1)])
    with pytest.raises(FinetuneError, match=r"in batch 2 of epoch 4, at learning rate 3e-05 to 0\.003"):
        finite.check(lambda: "epoch 4")


def test_finite_losses_pass_and_are_forgotten():
    finite = FiniteLoss()
    for _ in range(2):
        finite.watch(torch.tensor(1.0), 0, [1e-3])
        finite.check(lambda: "epoch 0")
    finite.watch(torch.tensor(float("nan")), 0, [1e-3])
    with pytest.raises(FinetuneError, match=r"batch 0 of epoch 2, at learning rate 0\.001\."):
        finite.check(lambda: "epoch 2")


def test_watching_reads_nothing_from_the_device():
    finite = FiniteLoss()
    loss = torch.tensor(1.0, device="meta")  # reading a meta tensor raises
    finite.watch(loss, 0, [1e-3])
    finite.watch(loss, 1, [1e-3, torch.tensor(1e-3, device="meta")])
    with pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        finite.check(lambda: "epoch 0")


def test_a_rate_that_the_device_holds_is_named():
    finite = FiniteLoss()
    finite.watch(torch.tensor(float("nan")), 0, [torch.tensor(0.25), torch.tensor(0.5)])
    with pytest.raises(FinetuneError, match=r"at learning rate 0\.25 to 0\.5\."):
        finite.check(lambda: "epoch 0")
