import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune import LinearRegression
from lightning_finetune.errors import FinetuneError


def test_it_finds_the_least_squares_solution_of_numpy(trainer):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, 3), torch.ones(200, 1)], 1)
    y = x @ torch.tensor([3.0, -2.0, 0.5, 1.0]) + 0.3 * torch.randn(200)
    model = LinearRegression(num_features=4, lr=0.2)
    trainer(200).fit(model, DataLoader(TensorDataset(x, y), batch_size=200))
    expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    assert model.a.detach().numpy() == pytest.approx(expected, abs=1e-4)


def test_one_step_is_the_gradient_by_hand(trainer):
    x, y = torch.tensor([[2.0, 1.0], [-1.0, 1.0]]), torch.tensor([1.0, 0.0])
    model = LinearRegression(lr=0.1)
    run = trainer(1)
    run.fit(model, DataLoader(TensorDataset(x, y), 2), DataLoader(TensorDataset(x, y), 2))
    errors = x @ torch.ones(2) - y  # 2, 0
    assert model.a.tolist() == pytest.approx((1 - 0.1 * (2 * errors[:, None] * x).mean(0)).tolist())
    assert float(run.callback_metrics["val_loss"]) == pytest.approx(float(((x @ model.a - y) ** 2).mean()))


def test_no_features_are_refused():
    with pytest.raises(FinetuneError, match="`num_features` to be at least 1, got 0"):
        LinearRegression(num_features=0)
