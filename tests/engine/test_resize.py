"""Batches of every form at another size: images smooth, masks exact."""

from collections import namedtuple

import pytest
import torch

from lightning_finetune.engine.resize import check_min_size, snap, target_size
from lightning_finetune.engine.resize_batch import resize_batch
from lightning_finetune.errors import PhaseError

Pair = namedtuple("Pair", ["image", "mask"])


def image(height=64, width=96) -> torch.Tensor:
    return torch.rand(2, 3, height, width)


def mask(height=64, width=96) -> torch.Tensor:
    ids = torch.tensor([0, 3, 7, 11, 255])
    return ids[torch.randint(0, 5, (2, height // 8, width // 8))].repeat_interleave(8, 1).repeat_interleave(8, 2)


def test_masks_keep_their_ids_and_their_type():
    for given in (mask(), mask().to(torch.uint8), mask().float(), mask()[:, None].float()):
        resized = resize_batch({"image": image(), "mask": given}, (32, 64))
        assert resized["mask"].shape[-2:] == (32, 64)
        assert resized["mask"].dtype == given.dtype
        assert set(resized["mask"].unique().tolist()) <= {0, 3, 7, 11, 255}


@pytest.mark.parametrize(
    "form", [list, tuple, lambda pair: Pair(*pair), lambda pair: dict(zip("ab", pair, strict=True))]
)
def test_the_form_of_the_batch_stays(form):
    batch = form([image(), mask()])
    resized = resize_batch(batch, (32, 32))
    assert type(resized) is type(batch)
    first, second = resized.values() if isinstance(resized, dict) else resized
    assert first.shape == (2, 3, 32, 32)
    assert second.shape == (2, 32, 32)


def test_labels_and_boxes_are_left_alone():
    labels, boxes = torch.arange(2), torch.rand(2, 5, 4)
    resized = resize_batch([image(), labels, boxes, "name"], (32, 32))
    assert resized[1] is labels
    assert resized[2] is boxes
    assert resized[3] == "name"


def test_a_stripe_pattern_keeps_its_mean():
    """Nearest neighbour would turn a 1-in-4 stripe into all or nothing."""
    stripes = (torch.arange(128) % 4 == 0).float().expand(1, 3, 128, 128)
    assert resize_batch([stripes], (32, 32))[0].mean() == pytest.approx(0.25, abs=0.01)


def test_bytes_stay_bytes():
    resized = resize_batch([(image() * 255).to(torch.uint8)], (32, 32))[0]
    assert resized.dtype == torch.uint8
    assert resized.float().mean() == pytest.approx(127, abs=5)


def test_a_grey_image_is_smooth_and_its_mask_exact():
    grey, binary = torch.rand(2, 1, 64, 96), (mask() > 5).float()[:, None]
    resized = resize_batch({"image": grey, "mask": binary}, (48, 48))
    assert set(resized["mask"].unique().tolist()) <= {0.0, 1.0}
    assert len(resized["image"].unique()) > 100


def test_a_batch_without_images_is_refused():
    with pytest.raises(PhaseError, match="got none"):
        resize_batch([torch.rand(2, 3)], (32, 32))


@pytest.mark.parametrize(
    ("size", "expected"), [((200, 320), (192, 320)), ((10, 5), (32, 32)), ((224, 224), (224, 224))]
)
def test_both_sides_are_snapped_to_the_stride(size, expected):
    assert snap(size) == expected


def test_one_number_is_the_shorter_side_in_the_shape_of_the_data():
    assert target_size(180, (360, 480)) == (192, 256)
    assert target_size(360, (360, 480)) == (360, 480)  # the data's own size is as it is
    assert target_size(128, None) == (128, 128)


def test_tiny_images_are_refused_with_the_rule():
    with pytest.raises(PhaseError, match="64 x 64"):
        check_min_size(48, 64)
    check_min_size(48, 32)
