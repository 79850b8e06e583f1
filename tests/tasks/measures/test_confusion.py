"""Counts of what is taken for what."""

import numpy as np
import pytest
import torch
from sklearn.metrics import multilabel_confusion_matrix

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.measures.confusion import Confusion, LabelConfusion, LabelCounts


def test_the_most_confused_come_first_and_equals_in_the_order_of_the_classes() -> None:
    confusion = Confusion(np.array([[9, 2, 0], [3, 9, 2], [0, 1, 9]]), ["a", "b", "c"])
    pairs = [("b", "a", 3), ("a", "b", 2), ("b", "c", 2), ("c", "b", 1)]
    assert confusion.pairs() == pairs
    assert confusion.pairs(least=2) == pairs[:3]


def test_labels_are_counted_at_thresholds_of_their_own_one_matrix_each() -> None:
    counts, probabilities = LabelCounts([0.3, 0.8]), torch.tensor([[0.4, 0.7], [0.2, 0.9], [0.5, 0.1]])
    truth = torch.tensor([[1, 1], [1, 0], [0, 0]])
    for one, other in zip(probabilities, truth, strict=True):
        counts.update(one[None], other[None])
    confusion = counts.confusion(["a", "b"])
    expected = multilabel_confusion_matrix(truth, probabilities > torch.tensor([0.3, 0.8]))
    assert np.array_equal(confusion.counts, expected)
    assert np.array_equal(confusion.rates(), [expected[:, 1, 1], expected[:, 0, 1], expected[:, 1, 0]])
    assert [(title, names) for title, names, _ in confusion.panels()] == [
        ("a", ("absent", "present")),
        ("b", ("absent", "present")),
    ]


def test_labels_have_no_pairs_and_of_very_many_no_picture() -> None:
    many = LabelConfusion(np.zeros((101, 2, 2), np.int64), [str(number) for number in range(101)])
    with pytest.raises(FinetuneError, match="exclude each other"):
        many.pairs()
    with pytest.raises(FinetuneError, match="at most 100 labels for a picture, got 101"):
        many.panels()
