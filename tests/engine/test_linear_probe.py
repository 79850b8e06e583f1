"""The solved head against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from lightning_finetune.engine.linear_probe import STRENGTH, solve_head


def features(count: int = 120, channels: int = 30) -> torch.Tensor:
    """Features of very different scales, one of them constant."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, channels, generator=generator) * torch.logspace(-2, 1, channels) + 5
    values[:, 3] = 1.0
    return values


def scaled(values: torch.Tensor) -> np.ndarray:
    variance = values.var(0, correction=0)
    return ((values - values.mean(0)) / (variance + variance.mean()).sqrt()).double().numpy()


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_are_logistic_regression(classes):
    x = features()
    y = (torch.from_numpy(scaled(x)[:, -classes:]).float() + torch.rand(len(x), classes)).argmax(1)
    weight, bias = solve_head(x, y, nn.CrossEntropyLoss(), classes)
    strength = 2 * STRENGTH if classes == 2 else STRENGTH  # their binary model has one row of weights
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(scaled(x), y.numpy()).predict_proba(scaled(x))
    np.testing.assert_allclose((x @ weight.T + bias).softmax(1).numpy(), theirs, atol=2e-3)


def test_shares_of_classes_weigh_as_the_classes_themselves():
    x, y = features(), torch.arange(120) % 3
    shares = nn.functional.one_hot(y).float()
    of_classes, of_shares = (solve_head(x, targets, nn.CrossEntropyLoss(), 3)[0] for targets in (y, shares))
    torch.testing.assert_close(of_shares, of_classes, atol=1e-3, rtol=1e-3)


def test_labels_are_one_logistic_regression_each():
    x = features()
    y = (torch.from_numpy(scaled(x)[:, -4:]) > 0.3).float()
    weight, bias = solve_head(x, y, nn.BCEWithLogitsLoss(), 4)
    for label in range(4):
        theirs = LogisticRegression(C=STRENGTH, tol=1e-8, max_iter=1000).fit(scaled(x), y[:, label].numpy())
        ours = (x @ weight.T + bias)[:, label].sigmoid().numpy()
        np.testing.assert_allclose(ours, theirs.predict_proba(scaled(x))[:, 1], atol=2e-3)


def test_numbers_are_ridge_regression():
    x = features()
    y = torch.from_numpy(scaled(x)[:, -2:] @ np.array([[1.0, 0.5], [-2.0, 0.1]])).float()
    weight, bias = solve_head(x, y, nn.MSELoss(), 2)
    theirs = Ridge(alpha=1 / (2 * STRENGTH)).fit(scaled(x), y.numpy()).predict(scaled(x))
    np.testing.assert_allclose((x @ weight.T + bias).numpy(), theirs, atol=5e-3)


def test_a_feature_that_hardly_varies_gets_no_large_weight():
    """Else the loss explodes when the layers below begin to train, as such features then vary."""
    x = features()
    y = (x[:, -1] > x[:, -1].median()).long()
    x[:, 3] = 1 + 1e-4 * y
    weight, _ = solve_head(x, y, nn.CrossEntropyLoss(), 2)
    assert weight[:, 3].abs().max() < weight[:, -1].abs().max()


def test_the_loss_of_the_task_decides():
    """Weights of classes move the head towards the class that counts more."""
    x = features()
    y = torch.arange(len(x)) % 2
    plain, heavy = (
        solve_head(x, y, nn.CrossEntropyLoss(weight=torch.tensor([1.0, weight])), 2) for weight in (1.0, 20.0)
    )
    counts = [int((x @ weight.T + bias).argmax(1).sum()) for weight, bias in (plain, heavy)]
    assert counts[0] < counts[1]
