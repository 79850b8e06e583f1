from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from lightning_finetune.data.block.options import IMAGENET
from lightning_finetune.data.pixels.decode import load_image
from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.networks.backbones import (
    build_backbone,
    feature_shape,
    packaged_weights,
)
from lightning_finetune.tasks.networks.weights import load_weights

PHOTOS = Path(__file__).parents[3] / "../shared/data/ants_bees/valid"
BEE = 309  # of ImageNet's classes; 310 is ant


def build(model, *, in_channels=3, weights=False, pooled=False):
    return build_backbone(model, in_channels=in_channels, weights=weights, pooled=pooled)


@pytest.mark.parametrize(
    ("name", "channels", "is_map"),
    [
        ("test_resnet", 96, True),
        ("test_convnext", 64, True),
        ("tf_efficientnet_lite0", 1280, True),
        ("test_vit", 64, False),
        ("swin_tiny_patch4_window7_224", 768, False),
        ("torchvision/resnet18", 512, True),
        ("torchvision/mobilenet_v3_small", 576, True),
        ("torchvision/swin_t", 768, True),
        ("torchvision/googlenet", 1024, True),
        ("torchvision/inception_v3", 2048, True),
    ],
)
def test_features_of_known_models(name, channels, is_map):
    backbone = build(name)
    assert (backbone.channels, backbone.is_map) == (channels, is_map)
    side = 224 if "swin_tiny" in name else 96 if "inception" in name else 64
    features = backbone.module(torch.rand(2, 3, side, side))
    assert features.shape[:2] == (2, channels)
    features.sum().backward()
    # A parameter without a gradient would stop DistributedDataParallel.
    assert [key for key, param in backbone.module.named_parameters() if param.grad is None] == []


def test_vision_transformers_take_other_sizes():
    assert build("test_vit").module(torch.rand(1, 3, 96, 128)).shape == (1, 64)


def test_pooled_features_are_the_models_own():
    backbone = build("test_resnet", pooled=True)
    assert not backbone.is_map
    own = timm.create_model("test_resnet", num_classes=0)
    own.load_state_dict(backbone.module.state_dict())
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone.module.eval()(image), own.eval()(image))


def test_measuring_leaves_random_state_mode_and_statistics_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Noise())
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    assert feature_shape(module, 3)[1] == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert [layer.training for layer in module] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_statistics():
    assert build("tf_efficientnet_lite0").normalization == ((0.5,) * 3, (0.5,) * 3)
    assert build("torchvision/resnet18").normalization == IMAGENET
    assert build("torchvision/resnet18", in_channels=4).normalization is None
    assert build("test_resnet", in_channels=1).normalization is None
    assert build(nn.Conv2d(3, 4, 3)).normalization is None


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photos of ../shared/data")
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite1"])
def test_packaged_weights_know_ants_from_bees(name):
    network = timm.create_model(name).eval()
    load_weights(network, packaged_weights(name))
    files = [sorted((PHOTOS / kind).glob("*.jpg"))[:12] for kind in ("bees", "ants")]
    pixels = torch.stack([load_image(file, 224) for kind in files for file in kind]) / 127.5 - 1
    with torch.no_grad():
        guess = network(pixels)[:, BEE : BEE + 2].argmax(1)
    assert (guess == torch.tensor([0] * 12 + [1] * 12)).float().mean() > 0.85


def test_other_names_have_no_packaged_weights():
    names = ("resnet18", "tf_efficientnet_lite", "tf_efficientnet_lite9", "efficientnet_lite0")
    assert [packaged_weights(name) for name in names] == [None] * 4


def test_default_weights_are_the_packaged_ones():
    given = torch.load(packaged_weights("tf_efficientnet_lite0"), weights_only=True)
    module = build("tf_efficientnet_lite0", weights=True).module
    assert torch.equal(module.conv_stem.weight, given["_conv_stem.weight"])
    assert torch.equal(module.bn2.running_var, given["_bn1.running_var"])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "torchvision/resnet18", "test_resnet"])
@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels(name, channels):
    backbone = build(name, in_channels=channels, weights=name == "tf_efficientnet_lite0")
    assert backbone.module(torch.rand(1, channels, 64, 64)).shape[1] == backbone.channels


def test_a_module_is_used_as_it_is():
    module = nn.Sequential(nn.Conv2d(2, 6, 3))
    backbone = build(module, in_channels=2)
    assert backbone.module is module
    assert (backbone.channels, backbone.is_map) == (6, True)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet_18", "Did you mean 'resnet"), ("torchvision/resnet81", "Did you mean 'resnet")]
)
def test_unknown_names(name, hint):
    with pytest.raises(FinetuneError, match=hint):
        build(name)


def test_a_module_for_other_images_is_refused():
    with pytest.raises(FinetuneError, match="in_channels"):
        build(nn.Conv2d(4, 6, 3))


def test_a_module_that_gives_several_tensors_is_refused():
    with pytest.raises(FinetuneError, match="got tuple"):
        build(Two())


class Noise(nn.Module):
    def forward(self, features):
        return features + torch.rand_like(features)


class Two(nn.Module):
    def forward(self, images):
        return images, images
