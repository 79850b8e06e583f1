"""Positions in the images of a batch follow them to another size; those of a kind that is not known are refused."""

from collections import UserDict

import pytest
import torch
from torchvision import tv_tensors

from lightning_finetune.engine.resize_batch import resize_batch
from lightning_finetune.errors import PhaseError

SIZE = (32, 48)  # of 64 x 192: half the height, a quarter of the width


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 192)


def boxes() -> list[torch.Tensor]:
    return [torch.tensor([[8.0, 8.0, 80.0, 40.0]]), torch.zeros(0, 4), torch.tensor([[0.0, 2.0, 192.0, 64.0]])]


@pytest.mark.parametrize("key", ["boxes", "bbox_xyxy", "bbox", "gt_boxes", "bboxes", "boxes_xywh"])
def test_boxes_follow_their_images(key):
    """As torchgeo's object detection gives them: a list of tensors beside the stacked images."""
    batch = {"image": images(3), key: boxes(), "label": [torch.tensor([1]), torch.zeros(0), torch.tensor([2])]}
    resized = resize_batch(batch, SIZE)
    assert resized["image"].shape == (3, 3, *SIZE)
    assert [box.tolist() for box in resized[key]] == [[[2.0, 4.0, 20.0, 20.0]], [], [[0.0, 1.0, 48.0, 32.0]]]
    assert batch[key][0].tolist() == [[8.0, 8.0, 80.0, 40.0]], "the batch of the run is not changed"
    assert resized["label"] == batch["label"]


def test_images_of_several_sizes_each_with_its_targets_as_torchvision_has_them():
    big, small = torch.rand(3, 64, 192), torch.rand(3, 32, 32)
    target = {
        "boxes": torch.tensor([[8.0, 8, 16, 16]]),
        "labels": torch.tensor([1]),
        "keypoints": torch.tensor([[[8.0, 8.0, 1.0]]]),
        "area": torch.tensor([64.0]),
        "image_id": 7,
    }
    masks = [{"masks": torch.ones(1, *image.shape[1:], dtype=torch.uint8)} for image in (big, small)]
    resized, targets = resize_batch(([big, small], [{**target, **mask} for mask in masks]), SIZE)
    assert [image.shape for image in resized] == [(3, *SIZE)] * 2
    assert [one["boxes"].tolist() for one in targets] == [[[2, 4, 4, 8]], [[12, 8, 24, 16]]]
    assert [one["keypoints"].tolist() for one in targets] == [[[[2, 4, 1]]], [[[12, 8, 1]]]]
    assert [one["area"].tolist() for one in targets] == [[8.0], [96.0]]
    assert [one["masks"].shape for one in targets] == [(1, *SIZE)] * 2
    assert [one["image_id"] for one in targets] == [7, 7]


@pytest.mark.parametrize("layout", ["XYXY", "XYWH", "CXCYWH"])
def test_tensors_of_torchvision_stay_what_they_are(layout):
    boxes = tv_tensors.BoundingBoxes([[8.0, 8, 80, 40]], format=layout, canvas_size=(64, 192))
    given = (
        [tv_tensors.Image(image) for image in images(1)],
        [{"found": boxes, "seg": tv_tensors.Mask(torch.ones(2, 64, 192))}],
    )
    [image], [target] = resize_batch(given, SIZE)
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(target["found"], tv_tensors.BoundingBoxes)
    assert target["found"].canvas_size == SIZE
    assert target["found"].format is boxes.format
    assert target["found"].tolist() == [[2, 4, 20, 20]]
    assert isinstance(target["seg"], tv_tensors.Mask)
    assert target["seg"].shape == (2, *SIZE)
    assert boxes.tolist() == [[8, 8, 80, 40]]


@pytest.mark.skipif(not hasattr(tv_tensors, "KeyPoints"), reason="needs a newer torchvision")
def test_keypoints_of_torchvision_follow_too():
    points = tv_tensors.KeyPoints([[8.0, 8.0]], canvas_size=(64, 192))
    assert resize_batch({"image": images(1), "kp": [points]}, SIZE)["kp"][0].tolist() == [[2, 4]]


def test_whole_numbers_stay_whole():
    resized = resize_batch({"image": images(1), "boxes": [torch.tensor([[9, 9, 80, 40]])]}, SIZE)["boxes"][0]
    assert resized.dtype == torch.long
    assert resized.tolist() == [[2, 4, 20, 20]]


def test_parts_of_the_image_stay_as_transformers_and_yolo_have_them():
    parts = torch.tensor([[0.5, 0.5, 0.25, 1.0]])
    batch = UserDict({"pixel_values": images(1), "labels": [{"boxes": parts, "class_labels": torch.tensor([3])}]})
    resized = resize_batch(batch, SIZE)
    assert isinstance(resized, UserDict)
    assert resized["pixel_values"].shape == (1, 3, *SIZE)
    assert resized["labels"][0]["boxes"].equal(parts)
    assert batch["pixel_values"].shape == (1, 3, 64, 192)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("polygons", torch.rand(3, 2) * 60),
        ("rboxes", torch.rand(3, 5) * 60),
        ("boxes", torch.rand(3, 5) * 60),
        ("keypoints", torch.rand(3, 51) * 60),
        ("corners", torch.rand(4, 2) * 60),
        ("flow", torch.rand(2, 64, 192)),
    ],
)
def test_positions_of_other_kinds_are_refused_by_name(key, value):
    with pytest.raises(PhaseError, match=rf"tv_tensors.*Got '{key}', a tensor \["):
        resize_batch({"image": images(1), key: [value]}, SIZE)


def test_boxes_without_a_key_are_refused_and_other_numbers_are_not():
    with pytest.raises(PhaseError, match="boxes without a key"):
        resize_batch([images(1), torch.tensor([[[8.0, 8, 80, 40]]])], SIZE)
    for numbers in (torch.rand(2, 5, 4), torch.randn(2, 4) * 50, torch.eye(4)[:2], torch.tensor([3, 1])):
        assert resize_batch([images(), numbers], SIZE)[1] is numbers


@pytest.mark.parametrize("key", ["segmentation", "label", "lines"])
def test_masks_are_known_by_their_shape_whatever_they_are_called(key):
    assert resize_batch({"image": images(), key: torch.ones(2, 64, 192).long()}, SIZE)[key].shape == (2, *SIZE)


def test_no_mask_of_no_instance_is_resized_too():
    resized = resize_batch({"image": images(1), "masks": [torch.ones(0, 64, 192, dtype=torch.bool)]}, SIZE)["masks"][0]
    assert resized.shape == (0, *SIZE)
    assert resized.dtype == torch.bool


def test_what_has_the_size_already_is_the_same():
    batch = {"image": torch.rand(1, 3, *SIZE), "mask": torch.ones(1, *SIZE), "boxes": [torch.tensor([[3.0, 4, 5, 6]])]}
    resized = resize_batch(batch, SIZE)
    assert resized["image"] is batch["image"]
    assert resized["mask"] is batch["mask"]
    assert resized["boxes"][0].equal(batch["boxes"][0])
