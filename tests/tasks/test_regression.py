import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import ImageRegressor
from lightning_finetune.tasks.regression import NumberMetric


def task(**options) -> ImageRegressor:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    return ImageRegressor(**{"model": net, "num_outputs": 2, **options})


def loader(count: int = 40, unit: float = 1.0, zero: float = 0.0) -> DataLoader:
    """The brightness of the red and of the blue channel, in some unit."""
    generator = torch.Generator().manual_seed(count)
    numbers = torch.rand(count, 2, generator=generator)
    images = torch.rand(count, 3, 16, 16, generator=generator) / 10
    images[:, ::2] += numbers[:, :, None, None]
    return DataLoader(TensorDataset(images, numbers * unit + zero), 8)


def standard(unit: float = 1.0, zero: float = 0.0, **options) -> ImageRegressor:
    """A task that knows the spread of :func:`loader`'s targets."""
    torch.manual_seed(0)
    regressor = task(**options)
    regressor.standard.set([0.5 * unit + zero] * 2, [12**-0.5 * unit] * 2)
    return regressor


def test_numbers_are_scikit_learns_also_where_they_are_large_beside_their_spread(trainer):
    regressor, data = standard(zero=2e3), loader(37, zero=2e3)
    (values,) = trainer().validate(regressor, data, verbose=False)
    images, truth = data.dataset.tensors
    with torch.no_grad():
        predicted = regressor.predictions(regressor.eval()(images)).double()
    for name, theirs in (("mae", mean_absolute_error), ("rmse", root_mean_squared_error), ("r2", r2_score)):
        assert values[f"val_{name}"] == pytest.approx(theirs(truth.double(), predicted), rel=1e-5)
        each = theirs(truth.double(), predicted, multioutput="raw_values")
        assert [values[f"val_each_{name}_{k}"] for k in range(2)] == pytest.approx(each.tolist(), rel=1e-5)
    assert values["val_loss"] == pytest.approx((((predicted - truth) * 12**0.5) ** 2).mean().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("predicted", "truth"), [([3.0, 3.0], [3.0, 3.0]), ([3.0, 4.0], [3.0, 3.0]), ([1.0, 2.0], [2.0, 1.0])]
)
def test_of_what_does_not_vary_the_coefficient_is_scikit_learns_too(predicted, truth):
    metric = NumberMetric("r2")
    metric.update(torch.tensor(predicted)[:, None], torch.tensor(truth)[:, None])
    assert metric.compute() == pytest.approx(r2_score(truth, predicted))


def test_one_image_has_errors_but_no_coefficient(trainer):
    (values,) = trainer().validate(standard(), loader(1), verbose=False)
    assert np.isnan(values["val_r2"])
    assert np.isfinite(values["val_mae"])


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_unit_of_the_targets_changes_nothing_but_the_unit(trainer, loss):
    found = []
    for unit, zero in ((1.0, 0.0), (1e4, -3e4)):
        regressor, run = standard(unit, zero, loss=loss, lr=0.03), trainer(epochs=3)
        run.fit(regressor, loader(unit=unit, zero=zero), loader(24, unit, zero))
        found.append({name: value.item() for name, value in run.callback_metrics.items()})
    one, other = found
    assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-2)
    assert other["val_mae"] == pytest.approx(1e4 * one["val_mae"], rel=1e-2)


def test_a_loss_of_ones_own_gets_standardised_targets():
    seen = []

    class Watched(nn.L1Loss):
        def forward(self, outputs, target):
            seen.append(target)
            return super().forward(outputs, target)

    regressor = standard(unit=100.0, zero=7.0, loss=Watched())
    regressor.criterion(torch.zeros(1, 2), torch.tensor([[57.0, 57.0 + 100 * 12**-0.5]]))
    torch.testing.assert_close(seen[0], torch.tensor([[0.0, 1.0]]))


def test_data_that_does_not_tell_the_spread_is_warned_of(trainer):
    with pytest.warns(UserWarning, match="no `target_statistics"):
        trainer().fit(task(), loader(8))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(3), r"targets \[B, 2\] \(num_outputs=2\), got \[3\]"),
        (torch.zeros(3, 1), r"got \[3, 1\]"),
        (torch.tensor([[1.0, torch.nan]]), "finite"),
    ],
)
def test_targets_that_do_not_fit(target, message):
    with pytest.raises(DataError, match=message):
        task().check_target(target)


def test_wrong_arguments():
    with pytest.raises(FinetuneError, match=r"Expected `num_outputs`.*data.num_classes"):
        task(num_outputs=None)
    with pytest.raises(FinetuneError, match=r"`loss`.*'huber'"):
        task(loss="hubert")
