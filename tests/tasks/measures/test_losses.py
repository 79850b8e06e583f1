import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.measures.losses import MASK_LOSSES, MultiLabelLoss, SegmentationLoss


def labels(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(9, 5, generator=generator) * 3, torch.randint(0, 2, (9, 5), generator=generator).float()


def masks(classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, classes, 6, 7, generator=generator),
        torch.randint(0, classes - 1, (2, 6, 7), generator=generator),  # the last class is absent
    )


def test_bce_is_torchs_with_weights_and_smoothing():
    logits, target = labels()
    weight = [1.0, 2.0, 3.0, 0.5, 0.0]
    ours = MultiLabelLoss("bce", 5, pos_weight=weight, label_smoothing=0.1)(logits, target)
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))(logits, target * 0.9 + 0.05)
    torch.testing.assert_close(ours, theirs)


def test_focal_is_torchvisions():
    logits, target = labels()
    theirs = sigmoid_focal_loss(logits, target, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(MultiLabelLoss("focal", 5)(logits, target), theirs)


def test_asymmetric_is_the_papers():
    logits, target = labels()
    p, q = logits.sigmoid(), (logits.sigmoid() - 0.05).clamp(min=0)
    theirs = -(target * (1 - p) * p.log() + (1 - target) * q**4 * (1 - q).log()).mean()
    torch.testing.assert_close(MultiLabelLoss("asymmetric", 5)(logits, target), theirs)


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_sure_logits_give_finite_losses_and_gradients(name):
    logits = torch.tensor([[90.0, -90.0, 90.0, -90.0, 0.0]], requires_grad=True)
    loss = MultiLabelLoss(name, 5)(logits, torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_half_precision_loses_nothing():
    logits, target = labels()
    full = MultiLabelLoss("asymmetric", 5)(logits.half().float(), target)
    torch.testing.assert_close(MultiLabelLoss("asymmetric", 5)(logits.half(), target), full)


def test_cross_entropy_is_torchs():
    logits, target = masks()
    weight = [1.0, 2.0, 0.0, 3.0]
    target[0, :2] = 3
    ours = SegmentationLoss({"ce": 1.0}, 4, class_weights=weight, ignore_index=1)(logits, target)
    theirs = nn.CrossEntropyLoss(torch.tensor(weight), ignore_index=1)(logits, target)
    torch.testing.assert_close(ours, theirs)


def test_dice_is_segmentation_models_where_all_classes_are_present():
    logits, target = masks()
    target[0, 0, 0] = 3
    torch.testing.assert_close(
        SegmentationLoss({"dice": 1.0}, 4)(logits, target), DiceLoss("multiclass")(logits, target)
    )


def test_lovasz_is_segmentation_models():
    logits, target = masks()
    theirs = LovaszLoss("multiclass")(logits, target)  # gives probabilities, as ours does
    torch.testing.assert_close(SegmentationLoss({"lovasz": 1.0}, 4)(logits, target), theirs)


def test_focal_weighs_sure_pixels_less():
    logits, target = masks()
    p = logits.softmax(1).gather(1, target[:, None])[:, 0]
    theirs = -((1 - p) ** 2 * p.log()).mean()
    torch.testing.assert_close(SegmentationLoss({"focal": 1.0}, 4)(logits, target), theirs)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_ignored_pixels_count_for_nothing(name):
    logits, target = masks()
    loss = SegmentationLoss({name: 1.0}, 4, ignore_index=255)
    target[:, 4:] = 255
    other = logits.clone()
    other[:, :, 4:] = torch.randn(2, 4, 2, 7) * 9
    torch.testing.assert_close(loss(other, target), loss(logits, target))
    cut = SegmentationLoss({name: 1.0}, 4)(logits[:, :, :4], target[:, :4])
    torch.testing.assert_close(loss(logits, target), cut)
    nothing = loss(logits.requires_grad_(), torch.full_like(target, 255))
    nothing.backward()
    assert nothing == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_class_weights_count_in_each_loss(name):
    logits, target = masks()
    only = SegmentationLoss({name: 1.0}, 4, class_weights=[1.0, 0.0, 0.0, 0.0])
    even, uneven = (
        SegmentationLoss({name: 1.0}, 4),
        SegmentationLoss({name: 1.0}, 4, class_weights=[5.0, 1.0, 1.0, 1.0]),
    )
    first, second = even(logits, target), uneven(logits, target)
    expected = (first * 3 + only(logits, target) * 4) / 7  # a mean over classes 0, 1, 2
    if name in ("dice", "lovasz"):
        torch.testing.assert_close(second, expected)
    assert not torch.isclose(first, second)


def test_losses_add_up():
    logits, target = masks()
    parts = {"ce": 0.5, "dice": 2.0}
    total = sum(share * SegmentationLoss({name: 1.0}, 4)(logits, target) for name, share in parts.items())
    torch.testing.assert_close(SegmentationLoss(parts, 4)(logits, target), total)


def test_wrong_names_and_weights():
    with pytest.raises(FinetuneError, match=r"`loss`.*Did you mean 'dice'"):
        SegmentationLoss({"dicee": 1.0}, 4)
    with pytest.raises(FinetuneError, match="at least one"):
        SegmentationLoss({}, 4)
    with pytest.raises(FinetuneError, match="`pos_weight` to be 5"):
        MultiLabelLoss("bce", 5, pos_weight=[1.0])
