"""Counts of what is taken for what."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.measures.confusion import ClassCounts, Confusion, LabelConfusion, LabelCounts


@pytest.mark.parametrize("ignored", [None, 3])
def test_classes_are_counted_as_scikit_learn_counts_them(ignored: int | None) -> None:
    draws = torch.Generator().manual_seed(0)
    truth, predicted = torch.randint(0, 30, (2, 5, 40), generator=draws)
    counts = ClassCounts(30, ignore_index=ignored)
    for one, other in zip(truth, predicted, strict=True):
        counts.update(torch.eye(30)[other], one)
    kept = truth != (-1 if ignored is None else ignored)
    expected = confusion_matrix(truth[kept], predicted[kept], labels=range(30))
    confusion = counts.confusion([str(number) for number in range(30)])
    assert np.array_equal(confusion.counts, expected)
    hits = expected.diagonal()
    assert np.array_equal(confusion.rates(), [hits, expected.sum(0) - hits, expected.sum(1) - hits])


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
