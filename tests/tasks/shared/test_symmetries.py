import pytest
import torch

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.shared.symmetries import mean_over_symmetries


@pytest.mark.parametrize("tta", ["none", "flip", "dihedral"])
def test_masks_are_turned_back(tta):
    images = torch.rand(2, 3, 5, 8)
    torch.testing.assert_close(mean_over_symmetries(lambda turned: turned, images, tta), images)


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("flip", 2), ("dihedral", 8)])
def test_each_way_is_seen_once(tta, count):
    seen = []
    image = torch.arange(6.0).view(1, 1, 2, 3)
    mean_over_symmetries(lambda turned: seen.append(turned) or turned.flatten(1)[:, :2], image, tta)
    assert len({(*turned.flatten().tolist(), *turned.shape) for turned in seen}) == count


def test_mean_of_labels():
    image = torch.tensor([[[[0.0, 1.0]]]])  # the first pixel is 0 or, flipped, 1
    assert mean_over_symmetries(lambda turned: turned[:, :, 0, 0], image, "flip").item() == 0.5


def test_unknown_name():
    with pytest.raises(FinetuneError, match=r"`tta`.*Did you mean 'flip'"):
        mean_over_symmetries(lambda turned: turned, torch.rand(1, 1, 2, 2), "flips")
