import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn
from torch.nn import functional as F

from lightning_finetune.engine.freezing import frozen_norms, norm_params, set_trainable
from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups
from lightning_finetune.engine.norms import is_norm
from tests.foreign import ForeignNet, images


def layers_of(module: nn.Module) -> list[tuple[nn.Parameter, ...]]:
    return [group.params for group in layer_groups(module, only=module.parameters())]


def freeze(module: nn.Module, trained: int) -> list[nn.Module]:
    module.train()
    set_trainable(layers_of(module), trained)
    frozen = frozen_norms(module, layers_of(module), trained)
    for layer in frozen:
        layer.eval()
    return frozen


def step(net: nn.Module, optimizer: torch.optim.Optimizer, times: int = 3) -> None:
    x, y = images(8, seed=3).tensors
    for _ in range(times):
        optimizer.zero_grad()
        F.cross_entropy(net(x + 3), y).backward()  # shifted, so that running statistics would move
        optimizer.step()


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("trained", [1, 2, 4])
def test_the_last_groups_train(trained):
    net = ForeignNet()
    changed = set_trainable(layers_of(net), trained)
    trains = [all(param.requires_grad for param in params) for params in layers_of(net)]
    assert trains == [index >= 4 - trained for index in range(4)]
    assert changed is (trained < 4)
    assert set_trainable(layers_of(net), trained) is False  # nothing to register anew


def test_freezing_drops_gradients_so_that_momentum_moves_nothing():
    torch.manual_seed(0)
    net = ForeignNet()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    step(net, optimizer)
    freeze(net, 1)
    assert all(param.grad is None for params in layers_of(net)[:-1] for param in params)
    before = bits(net)
    step(net, optimizer)
    moved = {name for name, value in bits(net).items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_running_statistics_stay_and_training_computes_what_evaluation_does():
    torch.manual_seed(0)
    net = ForeignNet(dropout=0.0)
    step(net, torch.optim.SGD(net.parameters(), lr=0.1))
    freeze(net, 1)
    before = bits(net)
    x = images(8, seed=5).tensors[0] * 2 + 1
    training = net(x)
    assert all(torch.equal(value, before[name]) for name, value in bits(net).items())
    assert torch.equal(training, net.eval()(x))


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


def test_norms_may_train_in_frozen_groups_as_fastai_has_it():
    net = ForeignNet()
    set_trainable(layers_of(net), 1, always=norm_params(net))
    trains = {name for name, param in net.named_parameters() if param.requires_grad}
    norms = {f"{part}.1.{kind}" for part in ("stem", "body", "neck") for kind in ("weight", "bias")}
    assert trains == norms | {"head.weight", "head.bias"}


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


def test_the_head_phase_of_a_unet_trains_decoder_and_head_with_their_norms():
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(32, 16, 16, 8, 8))
    frozen = freeze(model, num_head_groups(layer_groups(model)))
    norms = [layer for layer in model.encoder.modules() if is_norm(layer)]
    assert set(frozen) == set(norms)
    before = bits(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    model(torch.randn(2, 3, 64, 64) + 2).square().mean().backward()
    optimizer.step()
    moved = {name for name, value in bits(model).items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"decoder", "segmentation_head"}
    running = {name for name in before if name.startswith("decoder") and name.endswith("running_mean")}
    assert running <= moved
