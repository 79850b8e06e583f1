import pytest
import torch
from torch import nn

from lightning_finetune.tasks.networks.heads import ConcatPool2d, build_head


def test_concat_pool_puts_maximum_before_mean():
    features = torch.arange(8.0).view(1, 2, 2, 2)
    assert ConcatPool2d()(features).tolist() == [[3.0, 7.0, 1.5, 5.5]]


def test_concat_pool_head_is_the_lessons_head():
    head = build_head("concat_pool", 64, 37, dropout=0.5, is_map=True)
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["ConcatPool2d", "BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.25, 0.5]
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features, layer.bias) for layer in linears] == [
        (128, 512, None),
        (512, 37, None),
    ]
    assert sum(p.numel() for p in head.parameters()) == 128 * 2 + 128 * 512 + 512 * 2 + 512 * 37


def test_head_starts_as_the_lessons_head_does():
    torch.manual_seed(0)
    head = build_head("concat_pool", 512, 10, dropout=0.5, is_map=True)
    assert torch.equal(head[1].bias, torch.full((1024,), 1e-3))
    assert torch.equal(head[1].weight, torch.ones(1024))
    assert head[3].weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)  # Kaiming, fan in


@pytest.mark.parametrize("name", ["concat_pool", "linear"])
def test_pooled_features_are_not_pooled_again(name):
    head = build_head(name, 8, 3, dropout=0.0, is_map=False)
    assert head(torch.rand(4, 8)).shape == (4, 3)
    assert not any("Pool" in type(layer).__name__ for layer in head)


def test_linear_head_of_a_map_averages():
    head = build_head("linear", 8, 3, dropout=0.0, is_map=True)
    features = torch.rand(2, 8, 3, 3)
    torch.testing.assert_close(head(features), head[-1](features.mean((2, 3))))
