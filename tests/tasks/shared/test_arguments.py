from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.shared.arguments import check_class_weights, check_count, not_plain, plain


def test_plain_keeps_what_weights_only_reads(tmp_path):
    arguments = {
        "a": 1,
        "b": [1.0, (2, "x")],
        "c": {"k": None},
        "d": nn.ReLU(),
        "e": partial(int),
        "f": Path("x"),
        "g": [nn.ReLU()],
        "h": {1: int},
    }
    kept = plain(arguments)
    assert list(kept) == ["a", "b", "c"]
    assert not_plain(arguments) == ["d", "e", "f", "g", "h"]
    torch.save(kept, tmp_path / "kept.pt")
    assert torch.load(tmp_path / "kept.pt", weights_only=True) == kept


@pytest.mark.parametrize("count", [None, 0, -3])
def test_number_of_classes(count):
    with pytest.raises(FinetuneError, match=r"num_classes=data\.num_classes"):
        check_count("num_classes", "classes", count)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0]])
def test_class_weights(weights):
    with pytest.raises(FinetuneError, match="`class_weights` to be 3 numbers"):
        check_class_weights(weights, 3)
