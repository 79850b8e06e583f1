"""The engine of reused outputs, without a Trainer."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_finetune.engine.feature_cache import (
    FeatureCache,
    bytes_of_one,
    fingerprint,
    used_tensors,
    why_not_reusable,
)
from lightning_finetune.engine.freezing import hold_in_eval

ITEMS = 7


def outputs(rows: torch.Tensor, shift: float = 0.0) -> dict:
    """Of several dtypes, forms and memory formats, all of which differ by item."""
    value = rows.float()[:, None, None, None] + shift
    grid = torch.arange(24.0).view(1, 2, 3, 4) / 7
    planes = (value * grid).contiguous(memory_format=torch.channels_last)
    return {"maps": [planes, (value * grid).half()], "ids": (rows[:, None] * torch.arange(5)).short(), "none": None}


def assert_same(one: dict, other: dict) -> None:
    assert one["none"] is other["none"] is None
    for a, b in [(one["ids"], other["ids"]), *zip(one["maps"], other["maps"], strict=True)]:
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
        assert a.is_contiguous(memory_format=torch.channels_last) == b.is_contiguous(
            memory_format=torch.channels_last
        ) or (a.ndim != 4)


@pytest.mark.parametrize("in_memory", [10**6, 0])
def test_it_reads_the_bits_that_were_written(tmp_path: Path, in_memory: int):
    cache = FeatureCache(ITEMS, 2, folder=tmp_path, in_memory=in_memory)
    for view in range(2):
        for rows in (torch.tensor([5, 0, 3]), torch.tensor([1, 2, 4, 6])):
            assert not cache.has(view)
            cache.write(view, rows, outputs(rows, view))
        assert cache.has(view)
    wanted = torch.tensor([6, 0, 0, 5])
    for view in range(2):
        assert_same(cache.read(view, wanted), outputs(wanted, view))
    assert cache.is_on_disk == (in_memory == 0)
    assert cache.nbytes == 2 * ITEMS * (24 * 4 + 24 * 2 + 5 * 2) == 2 * ITEMS * bytes_of_one(outputs(wanted))
    assert list(tmp_path.iterdir()) == [], "the file has no name, so that it goes with the process"


def test_what_is_read_is_not_what_is_kept(tmp_path: Path):
    cache = FeatureCache(ITEMS, folder=tmp_path)
    rows = torch.arange(ITEMS)
    cache.write(0, rows, outputs(rows))
    cache.read(0, rows)["maps"][0].zero_()
    assert_same(cache.read(0, rows), outputs(rows))


@pytest.mark.parametrize("change", ["step", "data", "buffer"])
def test_it_notices_whoever_changes_the_layers(tmp_path: Path, change: str):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    cache = FeatureCache(ITEMS, folder=tmp_path)
    cache.watch([*layers.parameters(), *layers.buffers()])
    assert cache.is_current()
    with torch.no_grad():
        if change == "step":
            layers[0].weight[2, 1, 0, 0] += 1e-6
        elif change == "data":
            layers[0].weight.data.copy_(layers[0].weight.data * 0.999)
        else:
            layers[1].running_mean += 1e-3
    assert not cache.is_current()


def test_a_fingerprint_takes_every_dtype():
    tensors = [torch.ones(3, dtype=dtype) for dtype in (torch.float32, torch.float16, torch.int64, torch.bool)]
    before = fingerprint([*tensors, torch.tensor(4)])
    for tensor in tensors:
        tensor[1] = 0
        after = fingerprint([*tensors, torch.tensor(4)])
        assert after != before
        before = after


class Net(nn.Module):
    """Layers before a head, one of which has a parameter of its own and none runs its classifier."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4, 1, 1), requires_grad=False)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), *layers).requires_grad_(False)
        self.fc = nn.Linear(4, 2)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return (self.body(images) + self.shift).mean((2, 3))


def test_used_tensors_are_those_of_what_runs():
    net = Net(nn.BatchNorm2d(4))
    with used_tensors(net) as found:
        net.forward_features(torch.rand(2, 3, 8, 8))
    ids = {id(tensor) for tensor in found}
    expected = [net.shift, *net.body.parameters(), *net.body.buffers()]
    assert ids == {id(tensor) for tensor in expected}


class Centre(nn.Module):
    """An image less the mean of its batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - images.mean(0, keepdim=True)


LAYERS = {
    "nothing": ([], None),
    "a frozen norm": ([nn.BatchNorm2d(4)], None),
    "dropout": ([nn.Dropout(0.1)], "draw random numbers"),
    "a norm that follows": ([nn.BatchNorm2d(4)], "follow the batches"),
    "a layer that trains": ([nn.Conv2d(4, 4, 1)], "train"),
    "neighbours": ([Centre()], "depend on the other images"),
    "statistics of the batch": ([nn.BatchNorm2d(4, track_running_stats=False)], "depend on the other images"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_only_layers_that_do_not_change_are_reusable(case: str):
    layers, reason = LAYERS[case]
    net = Net(*layers)
    if case == "a frozen norm":
        hold_in_eval(layers)
    if case == "a layer that trains":
        layers[0].requires_grad_(True)
    images = torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        found = why_not_reusable(net.forward_features, given, net)
        assert (found is None) if reason is None else reason in (found or "")
