"""Truth and prediction of an image in words, whoever says them."""

import pytest
import torch
from torch import nn

from lightning_finetune.errors import DataError
from lightning_finetune.tasks.shared.verdicts import (
    Verdict,
    foreign_verdicts,
    of_classes,
    of_labels,
    of_masks,
    of_numbers,
)


def test_a_class_with_its_probability() -> None:
    right, wrong = of_classes(torch.tensor([[0.9, 0.1], [0.75, 0.25]]), torch.tensor([0, 1]), ["cat", "dog"])
    assert (right.truth, right.prediction, right.wrong) == ("cat", "cat 90%", False)
    assert (wrong.truth, wrong.prediction, wrong.wrong) == ("dog", "cat 75%", True)
    assert wrong.row == {"prediction": "cat", "truth": "dog", "probability": 0.75}


def test_labels_with_the_least_probability_that_a_true_answer_got() -> None:
    probabilities, truth = torch.tensor([[0.75, 0.5], [0.25, 0.125]]), torch.tensor([[1, 0], [0, 1]])
    right, wrong = of_labels(probabilities, probabilities > 0.6, truth, ["a", "b"])
    assert (right.truth, right.prediction, right.wrong, right.row["probability"]) == ("a", "a", False, 0.5)
    assert (wrong.truth, wrong.prediction, wrong.wrong, wrong.row["probability"]) == ("b", "none", True, 0.125)


def test_masks_with_their_share_of_equal_pixels_that_count() -> None:
    truth = torch.tensor([[[0, 1], [1, -1]]])
    (verdict,) = of_masks(torch.tensor([[[0, 1], [0, 0]]]), truth)
    assert verdict.prediction == "truth | prediction, 67% equal"
    assert verdict.wrong is None
    assert verdict.row["pixel_accuracy"] == pytest.approx(2 / 3)
    assert (verdict.masks[0] == truth[0].numpy()).all()


def test_numbers_beside_each_other() -> None:
    (one,) = of_numbers(torch.tensor([[2.5]]), torch.tensor([[3.0]]), ["age"])
    assert one == Verdict("3", "2.5", row={"prediction": 2.5, "truth": 3.0, "error": 0.5})
    (two,) = of_numbers(torch.tensor([[2.5, 1.0]]), torch.tensor([[3.0, 1.0]]), ["x", "y"])
    assert (two.truth, two.prediction) == ("x 3, y 1", "x 2.5, y 1")
    assert two.row["error_x"] == 0.5


@pytest.mark.parametrize(
    ("logits", "target", "prediction"),
    [
        (torch.tensor([[0.0, 2.0]]), torch.tensor([1]), "b 88%"),
        (torch.tensor([[2.0]]), torch.tensor([[1]]), "b 88%"),  # one logit of two classes
        (torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.0, 1.0]]), "b"),
        (torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.5, 1.5]]), "a -1, b 2"),
        (torch.tensor([7.25]), torch.tensor([7.5]), "7.25"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4), "truth | prediction, 100% equal"),
    ],
)
def test_of_other_modules_the_shapes_tell(logits: torch.Tensor, target: torch.Tensor, prediction: str) -> None:
    names = ["a", "b"]
    (verdict,), _ = foreign_verdicts(nn.Identity(), logits, target, lambda count: names[:count])
    assert verdict.prediction == prediction


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(DataError, match=r"logits of shape \[2, 3\] do not fit targets of shape \[2, 4\]"):
        foreign_verdicts(nn.Identity(), torch.zeros(2, 3), torch.zeros(2, 4), lambda count: ["a"] * count)
    with pytest.raises(DataError, match="expected logits"):
        foreign_verdicts(nn.Identity(), {"logits": 1}, torch.zeros(2), lambda count: ["a"] * count)
