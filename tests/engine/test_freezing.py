import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from lightning_finetune.engine.freezing import frozen_norms, set_trainable
from lightning_finetune.engine.layer_groups import layer_groups
from tests.foreign import ForeignNet, bits


def layers_of(module: nn.Module) -> list[tuple[nn.Parameter, ...]]:
    return [group.params for group in layer_groups(module, only=module.parameters())]


def freeze(module: nn.Module, trained: int) -> list[nn.Module]:
    module.train()
    set_trainable(layers_of(module), trained)
    frozen = frozen_norms(module, layers_of(module), trained)
    for layer in frozen:
        layer.eval()
    return frozen


@pytest.mark.parametrize("trained", [1, 2, 4])
def test_the_last_groups_train(trained):
    net = ForeignNet()
    changed = set_trainable(layers_of(net), trained)
    trains = [all(param.requires_grad for param in params) for params in layers_of(net)]
    assert trains == [index >= 4 - trained for index in range(4)]
    assert changed is (trained < 4)
    assert set_trainable(layers_of(net), trained) is False  # nothing to register anew


def test_a_thawed_norm_layer_is_not_among_the_frozen():
    net = ForeignNet()
    assert frozen_norms(net, layers_of(net), 1) == [net.stem[1], net.body[1], net.neck[1]]
    assert frozen_norms(net, layers_of(net), 2) == [net.stem[1], net.body[1]]
    assert frozen_norms(net, layers_of(net), 4) == []


def test_norm_layers_without_parameters_go_with_the_layers_around_them():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
    )
    assert frozen_norms(net, layers_of(net), 1) == [net[0][1], net[1][1]]
    assert frozen_norms(net, layers_of(net), 2) == [net[0][1]]
    stem, *rest = layers_of(net)
    assert frozen_norms(net, rest, 1, theirs=stem) == [net[1][1]], "of what its author froze it keeps its mode"
    assert frozen_norms(net, rest, 1, never=stem) == [net[0][1], net[1][1]]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_a_frozen_timm_body_keeps_every_bit(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    frozen = freeze(model, 1)
    assert len(frozen) >= sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    before = bits(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    size = model.default_cfg["input_size"][-1]
    F.cross_entropy(model(torch.randn(2, 3, size, size) + 2), torch.tensor([0, 1])).backward()
    optimizer.step()
    head = {name for name, param in model.named_parameters() if param.requires_grad}
    moved = {name for name, value in bits(model).items() if not torch.equal(value, before[name])}
    assert moved == head
    assert head
