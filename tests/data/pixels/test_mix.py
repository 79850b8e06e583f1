"""MixUp and CutMix."""

import numpy as np
import pytest
import torch

from lightning_finetune.data.pixels.mix import CutMix, MixUp, mix_labels, mixer
from lightning_finetune.errors import DataError

ITEMS = np.arange(16)


def images() -> torch.Tensor:
    """Image i is i everywhere."""
    return torch.arange(16.0)[:, None, None, None].expand(-1, 3, 20, 20).contiguous()


@pytest.mark.parametrize("mix", [MixUp(), CutMix()])
def test_labels_are_mixed_as_the_pixels_are(mix):
    for epoch in range(5):
        pixels, partners, own = mix(images(), mix.plan(0, epoch, ITEMS))
        soft = mix_labels(torch.arange(16), partners, own, 16)
        assert torch.allclose(soft.sum(1), torch.ones(16))
        assert torch.allclose(soft @ torch.arange(16.0), pixels.mean((1, 2, 3)), atol=1e-4)


def test_mixup_keeps_at_least_half_of_each_image_and_each_has_its_own_weight():
    _, partners, own = MixUp()(images(), MixUp().plan(0, 0, ITEMS))
    assert own.min() >= 0.5
    assert len(set(own.tolist())) > 10
    assert sorted(partners.tolist()) == list(range(16))


def test_cutmix_pastes_one_rectangle_unchanged():
    pixels, partners, own = CutMix()(images(), CutMix().plan(0, 1, ITEMS))
    for row in range(16):
        assert set(pixels[row].unique().tolist()) <= {float(row), float(partners[row])}
    inside = (pixels[:, 0] == partners[:, None, None]).float().mean((1, 2))[partners != torch.arange(16)]
    assert torch.allclose(inside, 1 - own[0])


def test_several_labels_are_mixed_too():
    vectors = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    mixed = mix_labels(vectors, torch.tensor([1, 0]), torch.tensor([0.75, 0.75]), 3)
    assert mixed.tolist() == [[0.75, 0.0, 1.0], [0.25, 0.0, 1.0]]


def test_the_plan_repeats_and_changes_with_the_epoch():
    assert torch.equal(MixUp().plan(1, 1, ITEMS), MixUp().plan(1, 1, ITEMS))
    assert not torch.equal(MixUp().plan(1, 1, ITEMS), MixUp().plan(1, 2, ITEMS))


def test_unknown_names_and_strengths_are_refused():
    with pytest.raises(DataError, match="mixup"):
        mixer("mixdown")
    with pytest.raises(DataError, match="alpha"):
        MixUp(0)
