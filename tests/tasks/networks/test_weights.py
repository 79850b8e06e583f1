import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_finetune.errors import CheckpointError
from lightning_finetune.tasks.networks.backbones import packaged_weights
from lightning_finetune.tasks.networks.weights import load_weights, read_file


def net(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def same(module: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone.", "encoder."])
def test_names_may_carry_a_prefix_and_files_other_parts(prefix):
    source, target = net(), net()
    given = {prefix + name: value for name, value in source.state_dict().items()} | {"head.weight": torch.ones(3)}
    load_weights(target, {"state_dict": given, "epoch": 3})
    assert same(target, source.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files(tmp_path, suffix):
    source, target = net(), net()
    path = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), path)
    load_weights(target, path)
    assert same(target, source.state_dict())


def test_another_packages_names_are_taken_by_order_and_it_is_said(caplog):
    reference = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    with caplog.at_level("INFO", logger="lightning_finetune"):
        load_weights(reference, packaged_weights("tf_efficientnet_lite0"))
    given = list(torch.load(packaged_weights("tf_efficientnet_lite0"), weights_only=True).values())
    assert all(torch.equal(a, b) for a, b in zip(reference.state_dict().values(), given[:294], strict=True))
    assert "294 tensors by order, left 2" in caplog.text


def test_order_is_not_trusted_where_a_shape_differs():
    state = list(net().state_dict().values())
    given = {f"layer_{i}": value for i, value in enumerate(state[::-1])}
    with pytest.raises(CheckpointError, match="Missing"):
        load_weights(net(), given)


def test_error_lists_missing_unexpected_and_mismatched_names():
    state = net().state_dict()
    state["0.bias"] = torch.ones(5)
    state["9.weight"] = torch.ones(1)
    del state["2.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(net(), state)
    text = str(caught.value)
    assert "2.bias" in text
    assert "9.weight" in text
    assert "0.bias: (5,) in place of (4,)" in text
    assert "0.weight" not in text


def test_a_classifier_that_the_module_lacks_is_left_out():
    state = {**net().state_dict(), "fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    load_weights(target := net(), state)
    assert same(target, state)


def test_first_convolution_is_adapted_to_other_channels():
    source, grey, five = net(), net(1), net(5)
    for target in (grey, five):
        load_weights(target, source.state_dict())
    rgb = source[0].weight
    torch.testing.assert_close(grey[0].weight, rgb.sum(1, keepdim=True))
    image = torch.rand(1, 1, 6, 6)
    torch.testing.assert_close(grey(image), source(image.expand(-1, 3, -1, -1)), msg="grey must act as grey RGB")
    assert five[0].weight.shape[1] == 5


def test_only_channels_are_adapted():
    wider = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    with pytest.raises(CheckpointError, match=r"0\.weight: \(4, 3, 3, 3\) in place of \(8, 1, 3, 3\)"):
        load_weights(wider, net().state_dict())


def test_pickled_code_is_refused(tmp_path):
    torch.save({"state_dict": net()}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="pickled code, which is refused"):
        read_file(tmp_path / "code.pt")


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors", "text.pt", "empty.pt"])
def test_truncated_and_foreign_files(tmp_path, name):
    torch.save(net().state_dict(), tmp_path / "whole.pt")
    save_file(net().state_dict(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole").with_suffix((tmp_path / name).suffix).read_bytes()
    content = {"cut": whole[: len(whole) // 2], "text": b"hello", "empty": b""}[name.split(".")[0]]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_file(tmp_path / name)


def test_missing_file_and_a_file_without_tensors(tmp_path):
    with pytest.raises(CheckpointError, match="there is none"):
        load_weights(net(), tmp_path / "none.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    with pytest.raises(CheckpointError, match="found none in it"):
        load_weights(net(), tmp_path / "numbers.pt")
