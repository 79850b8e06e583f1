import pytest
import torch
from torch import nn

from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups
from lightning_finetune.errors import CheckpointError, FinetuneError
from lightning_finetune.tasks.networks.segmenter import DECODERS, Segmenter, build_segmenter, encoder_name


def build(model="unet", *, backbone="tf_efficientnet_lite0", weights=False, in_channels=3, num_classes=4):
    arguments = {"model": model, "backbone": backbone, "weights": weights, "in_channels": in_channels}
    return build_segmenter(arguments, num_classes)


@pytest.mark.parametrize("decoder", [d for d in DECODERS if d != "dpt"])  # of vision transformers alone
def test_every_decoder_takes_any_size(decoder):
    segmenter = build(decoder, backbone="resnet18").eval()
    size = (230, 257) if decoder == "pan" else (70, 97)  # its attention pools eight times more
    with torch.no_grad():
        assert segmenter(torch.rand(1, 3, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize("size", [(64, 96), (33, 70), (64, 65)])
def test_padding_does_not_move_pixels(size):
    seen = []
    network = nn.Module()
    network.forward = lambda images: seen.append(images.shape) or images
    images = torch.rand(2, 3, *size)
    assert torch.equal(Segmenter(network, 32, None)(images), images)
    assert seen[0] == (2, 3, 64, 96)


def test_groups_and_what_a_head_phase_trains():
    segmenter = build()
    groups = layer_groups(segmenter)
    assert [group.name for group in groups[-2:]] == ["decoder", "head"]
    assert num_head_groups(groups) == 2
    encoder = {id(p) for p in segmenter.network.encoder.parameters()}
    assert {id(p) for group in groups[:-2] for p in group.params} == encoder
    assert len(groups) >= 5


def test_every_parameter_has_a_gradient():
    segmenter = build()
    segmenter(torch.rand(2, 3, 64, 64)).sum().backward()
    assert [name for name, p in segmenter.named_parameters() if p.grad is None] == []


def test_packaged_weights_of_the_encoder():
    from lightning_finetune.tasks.networks.backbones import packaged_weights

    given = torch.load(packaged_weights("tf_efficientnet_lite0"), weights_only=True)
    encoder = build(weights=True).network.encoder.model
    assert torch.equal(encoder.conv_stem.weight, given["_conv_stem.weight"])
    ours = list(encoder.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(ours, given.values(), strict=False))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels):
    segmenter = build(weights=True, in_channels=channels)
    assert segmenter(torch.rand(2, channels, 64, 64)).shape == (2, 4, 64, 64)
    assert segmenter.normalization is None


def test_a_checkpoint_of_a_classifier_starts_the_encoder(tmp_path):
    from lightning_finetune.tasks import ImageClassifier

    classifier = ImageClassifier(num_classes=2, weights=False)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "classifier.ckpt")
    encoder = build(weights=tmp_path / "classifier.ckpt").network.encoder.model
    assert torch.equal(encoder.blocks[3][0].conv_pw.weight, classifier.model.backbone.blocks[3][0].conv_pw.weight)
    with pytest.raises(CheckpointError, match="Missing"):
        build(backbone="resnet18", weights=tmp_path / "classifier.ckpt")


def test_names_of_encoders():
    assert encoder_name("resnet34") == "tu-resnet34"
    assert encoder_name("tu-resnet34") == "tu-resnet34"
    assert encoder_name("mit_b0") == "mit_b0"
    with pytest.raises(FinetuneError, match=r"`backbone`.*Did you mean 'resnet34'"):
        encoder_name("resnet_34")


def test_encoders_of_both_packages():
    assert build(backbone="mit_b0").network.encoder.output_stride == 32
    assert build().normalization == ((0.5,) * 3, (0.5,) * 3)


def test_what_does_not_go_together_is_said():
    with pytest.raises(FinetuneError, match=r"decoder 'unet' can take, got 'vit_tiny_patch16_224'"):
        build(backbone="vit_tiny_patch16_224")
    with pytest.raises(FinetuneError, match=r"`model`.*Did you mean 'unet'"):
        build("unett")


def test_a_module_of_the_user():
    module = nn.Conv2d(3, 4, 3, padding=1)
    assert build(module)(torch.rand(1, 3, 13, 17)).shape == (1, 4, 13, 17)
