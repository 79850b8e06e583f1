"""Somebody's data set: what its items say counts, and not what an attribute of it says."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, random_split

from lightning_finetune import ImageData
from lightning_finetune.errors import DataError


class Photos(Dataset):
    """Eight photos with what ``target`` makes of their number."""

    def __init__(self, target, **attributes):
        self.target = target
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: int):
        return torch.full((3, 32, 48), item, dtype=torch.uint8), self.target(item)


def test_a_transform_of_targets_is_not_passed_over():
    known = [item % 4 for item in range(8)]
    assert ImageData.from_dataset(Photos(lambda item: item % 4, targets=known)).num_classes == 4
    data = ImageData.from_dataset(Photos(lambda item: item % 4 // 2, targets=known, classes=["pet", "plant"]))
    assert data.items.labels.values == ("pet", "pet", "plant", "plant") * 2


def test_two_sets_that_number_classes_otherwise_are_refused():
    train, valid = (Photos(lambda item: item % 2, classes=names) for names in (["ant", "bee"], ["bee", "wasp"]))
    with pytest.raises(DataError, match="its numbers mean others"):
        ImageData.from_dataset(train, valid)
    assert ImageData.from_dataset(train, Photos(lambda item: item % 2)).classes == ["ant", "bee"]


def test_parts_of_a_set_have_its_names():
    photos = Photos(lambda item: item % 2, classes=["ant", "bee"])
    assert ImageData.from_dataset(Subset(photos, [0, 1, 2, 3, 5])).classes == ["ant", "bee"]
    assert ImageData.from_dataset(*random_split(Subset(photos, range(8)), [6, 2])).classes == ["ant", "bee"]


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_mask_of_another_size_than_its_image_is_named(kind):
    whole, part = ([[0, 1] * (width // 2)] * 32 for width in (48, 24))
    assert ImageData.from_dataset(Photos(lambda item: kind(whole)), classes=["a", "b"]).kind == "mask"
    with pytest.raises(DataError, match=r"Item 5: expected a mask \[32, 48\] .* got \[32, 24\]"):
        ImageData.from_dataset(Photos(lambda item: kind(part if item == 5 else whole)), classes=["a", "b"])


def test_targets_of_several_parts_are_no_target():
    with pytest.raises(DataError, match=r"Expected one target for each image, got \(3, "):
        ImageData.from_dataset(Photos(lambda item: (3, torch.zeros(32, 48))))
