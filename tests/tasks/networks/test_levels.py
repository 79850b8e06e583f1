"""Features of all levels of a backbone."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import normalize

from lightning_finetune import ImageClassifier
from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.networks.levels import level_features, watch_levels


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return ImageClassifier("test_efficientnet", num_classes=3, weights=False).eval()


def test_a_head_sees_what_timm_calls_the_intermediates(classifier):
    body, images = classifier.model.backbone, torch.rand(2, 3, 64, 64)
    last, maps = body.forward_intermediates(images, indices=list(range(len(body.blocks) + 1)), extra_blocks=True)
    pooled = [body.forward_head(last, pre_logits=True), *(level.mean((2, 3)) for level in maps[1:])]  # 0 is the stem
    expected = torch.cat([normalize(level, dim=1) for level in pooled], dim=1)
    expected *= (expected.shape[1] / len(pooled)) ** 0.5
    torch.testing.assert_close(classifier.model.forward_features(images), expected)
    assert classifier.model.linear.in_features == expected.shape[1]


@pytest.mark.parametrize(
    ("name", "dims"),
    [("swin_tiny_patch4_window7_224", (1, 2)), ("vit_tiny_patch16_224", (1,)), ("test_resnet", (2, 3))],
)
def test_maps_of_either_order_and_tokens_are_averaged_over_their_positions(name, dims):
    torch.manual_seed(0)
    body = timm.create_model(name, num_classes=0).eval()
    levels = watch_levels(body, 3)
    seen = {}
    for level in levels:
        body.get_submodule(level).register_forward_hook(
            lambda module, args, output, level=level: seen.__setitem__(level, output)
        )
    features = level_features(body, levels, torch.rand(1, 3, 224, 224))
    last, first = body.num_features, next(iter(levels))
    part = features[:, last : last + levels[first]]
    torch.testing.assert_close(normalize(part, dim=1), normalize(seen[first].mean(dims), dim=1))
    assert features.shape[1] == last + sum(levels.values())


def test_no_level_outweighs_the_others(classifier):
    body, images = classifier.model.backbone, torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        before = classifier.model.forward_features(images)
        body.blocks[2][-1].register_forward_hook(lambda module, args, output: output * 1000)
        after = classifier.model.forward_features(images)
    assert after.square().mean().item() == pytest.approx(1, rel=1e-4)
    first = slice(body.num_features, body.num_features + 16)  # of a level before
    torch.testing.assert_close(after[:, first], before[:, first])


def test_the_last_level_is_no_second_copy_of_the_features():
    body = timm.create_model("test_resnet", num_classes=0).eval()
    assert "layer4" not in watch_levels(body, 3)


def test_a_module_of_the_user_is_left_as_it_is():
    body = timm.create_model("test_resnet", num_classes=0)
    classifier = ImageClassifier(body, num_classes=3)
    assert classifier.model.linear.in_features == body.num_features
    assert not any(layer._forward_hooks for layer in body.modules())


def test_copies_have_levels_of_their_own(classifier):
    images = torch.rand(2, 3, 64, 64)
    expected = classifier(images)
    twin = copy.deepcopy(classifier)
    with torch.no_grad():
        twin.model.backbone.blocks[0][0].conv.weight.zero_()
    assert torch.equal(classifier(images), expected)
    assert not torch.equal(twin(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(classifier.model))(images), expected)


def test_threads_do_not_see_the_levels_of_each_other(classifier):
    images = [torch.rand(1, 3, 96, 96) for _ in range(16)]
    with torch.no_grad(), ThreadPoolExecutor(4) as threads:
        expected = [classifier(image) for image in images]
        for _ in range(4):
            assert all(map(torch.equal, threads.map(classifier, images), expected))


def test_the_network_compiles_as_one_graph(classifier):
    images = torch.rand(2, 3, 64, 64)
    compiled = torch.compile(copy.deepcopy(classifier.model), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), classifier(images))


def test_nothing_is_kept_of_a_pass_that_fails(classifier):
    kept = classifier(torch.rand(1, 3, 64, 64))
    with pytest.raises(RuntimeError):
        classifier(torch.rand(1, 5, 64, 64))
    assert torch.equal(classifier(torch.zeros(1, 3, 64, 64)), classifier(torch.zeros(1, 3, 64, 64)))
    assert kept.shape == (1, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_level_of_zeros_is_no_nan_in_any_precision(classifier, dtype):
    model = classifier.model.to(dtype)
    with torch.no_grad():
        for layer in model.backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.zero_()
        features = model.forward_features(torch.zeros(1, 3, 64, 64, dtype=dtype))
    assert features.dtype == dtype
    assert not features.any()


def test_a_pass_that_goes_around_a_level_is_refused(classifier):
    classifier.model.backbone.set_grad_checkpointing()
    with pytest.raises(FinetuneError, match=r"'blocks\.0'.*head='linear'"):
        classifier.train()(torch.rand(2, 3, 64, 64))


def test_a_network_without_levels_has_a_head_over_its_features():
    classifier = ImageClassifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), num_classes=2)
    assert classifier.model.linear.in_features == 8
