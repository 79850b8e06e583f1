import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.measures.metrics import ErrorRate, Measures, collect


def test_order_and_names():
    given = {"second": MulticlassAccuracy(3), "first": ErrorRate(3)}
    assert list(collect(given)) == ["second", "first"]
    assert list(collect([MulticlassF1Score(3), MulticlassAccuracy(3)])) == ["MulticlassF1Score", "MulticlassAccuracy"]
    assert list(collect(ErrorRate(3))) == ["ErrorRate"]


@pytest.mark.parametrize("wrong", [["accuracy"], [], [torch.nn.ReLU()]])
def test_other_things_than_metrics(wrong):
    with pytest.raises(FinetuneError, match="`metrics`"):
        collect(wrong)


def test_loss_comes_first_and_names_begin_with_the_stage():
    measures = Measures("val", collect({"each": MulticlassAccuracy(2, average=None), "error_rate": ErrorRate(2)}), 2)
    sure = torch.tensor([[0.9, 0.1]])
    measures.update(torch.tensor([3.0, 3.0]), sure.repeat(3, 1), torch.tensor([0, 0, 1]))
    measures.update(torch.tensor([5.0, 1.0]), sure, torch.tensor([1]))
    values = measures.compute(["cat", "dog"], ratio)
    assert list(values) == ["val_loss", "val_each_cat", "val_each_dog", "val_error_rate"]
    assert [value.item() for value in values.values()] == [2.0, 1.0, 0.0, 0.5]
    measures.reset()
    measures.update(torch.tensor([5.0, 1.0]), sure, torch.tensor([0]))
    assert measures.compute(["cat", "dog"], ratio)["val_loss"] == 5.0


def test_a_loss_that_is_not_finite_shows():
    measures = Measures("val", collect(ErrorRate(2)), 2)
    measures.update(torch.tensor([2.0, 2.0]), torch.rand(2, 2), torch.tensor([0, 1]))
    measures.update(torch.tensor([float("nan"), 2.0]), torch.rand(2, 2), torch.tensor([0, 1]))
    assert measures.compute(["a", "b"], ratio)["val_loss"].isnan()


def ratio(sums: torch.Tensor) -> torch.Tensor:
    return sums[0] / sums[1]
