"""Large images in pieces: what a convolutional network gives for the whole, in bounded memory."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_finetune import UNetSegmenter
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks.shared.room import MOST, Room, room_of
from lightning_finetune.tasks.shared.tiling import TILE, Block, blocks_in_tiles, largest, overlap_of, spans, thin

ROOT = Path(__file__).parents[3]


def small_net(classes: int = 3, *, strided: bool = False) -> nn.Module:
    """A field of view of a few pixels."""
    torch.manual_seed(0)
    down = [nn.Conv2d(8, 8, 4, stride=4), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, stride=4), nn.ReLU()]
    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), *(down if strided else []), last).eval()


def in_tiles(net, images: Tensor, tile: int) -> Tensor:
    """All blocks in their places; NaN where there is none, and a failure where two lie on each other."""
    whole = torch.full((len(images), net(images[..., :32, :32]).shape[1], *images.shape[-2:]), torch.nan)
    for top, left, values in blocks_in_tiles(net, images, tile):
        there = (..., slice(top, top + values.shape[-2]), slice(left, left + values.shape[-1]))
        assert whole[there].isnan().all()
        whole[there] = values
    return whole


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 127, 128, 129, 500, 1000])
@pytest.mark.parametrize("tile", [64, 128, 256])
def test_pieces_cover_a_length_and_share_an_overlap(length: int, tile: int):
    parts = spans(length, tile)
    assert (parts[0][0], parts[-1][1]) == (0, length)
    assert all(stop - start <= tile and start % 32 == 0 for start, stop in parts)
    for (_, stop), (start, last) in pairwise(parts):
        assert stop - start == overlap_of(tile) < last - start


@pytest.mark.parametrize("shape", [(2, 3, 200, 300), (1, 3, 64, 500), (1, 3, 132, 64), (1, 3, 40, 40)])
@pytest.mark.parametrize("tile", [64, 128])
def test_a_small_network_gives_what_it_gives_for_the_whole(shape, tile):
    net, images = small_net(strided=True), noise(*shape)
    with torch.no_grad():
        whole, pieces = net(images), in_tiles(net, images, tile)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_seams_are_blended_where_pieces_differ():
    """A network that gives each piece its own constant: the result goes over from one to the next in small steps."""
    calls = iter([0, *range(100)])
    found = in_tiles(lambda part: torch.full_like(part[:, :1], float(next(calls))), noise(1, 3, 64, 512), 128)[0, 0, 0]
    assert found.diff().abs().max() < 0.1
    assert (found.min(), found.max()) == (0, len(spans(512, 128)) - 1)


@pytest.mark.parametrize("full", [(200, 300), (400, 601), (77, 90), (1, 1)])
@pytest.mark.parametrize(("rows", "columns"), [(1, 170), (64, 33), (130, 1), (1000, 1000)])
def test_blocks_come_to_full_size_as_the_whole_does(full, rows, columns, monkeypatch):
    monkeypatch.setattr("lightning_finetune.tasks.shared.tiling.BAND", 4 * 4 * 200 * 5)
    values = noise(4, 130, 170)
    whole = nn.functional.interpolate(values[None], full, mode="bilinear")[0]
    blocks = [
        Block(top, left, values[None, :, top : top + rows, left : left + columns])
        for top in range(0, 130, rows)
        for left in range(0, 170, columns)
    ]
    ids = torch.from_numpy(largest(blocks, (130, 170), full))
    assert ids.dtype == torch.int64
    chosen = whole.gather(0, ids[None])[0]
    assert (whole.amax(0) - chosen).abs().max() < 1e-5  # of equal ones either


def test_a_thin_part_of_a_block_says_where_it_begins(monkeypatch):
    monkeypatch.setattr("lightning_finetune.tasks.shared.tiling.BAND", 4 * 2 * 10 * 3)
    values = noise(1, 2, 8, 10)
    parts = [*thin(Block(5, 7, values))]
    assert [(top, left, part.shape[-2]) for top, left, part in parts] == [(5, 7, 3), (8, 7, 3), (11, 7, 2)]
    assert torch.equal(torch.cat([part for _, _, part in parts], dim=-2), values)


class Wide(nn.Module):
    """Holds so many channels of every pixel at once, beside its two inputs and what it gives."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images) + 1)


@pytest.mark.parametrize("channels", [16, 400])
def test_what_a_network_takes_is_counted(channels):
    with torch.inference_mode():
        room = room_of(Wide(channels), noise(1, 3, 64, 48))
    assert room.pixel == pytest.approx(2 * 4 * channels, rel=0.02)
    assert (room.classes, room.least) == (2, 64)


def test_a_compiled_network_is_counted_too():
    with torch.inference_mode():
        room = room_of(torch.compile(Wide(400), backend="eager"), noise(1, 3, 64, 48))
    assert room.pixel > 4 * 400
    assert room.classes == 2


@pytest.mark.parametrize(("pixel", "classes"), [(300, 2), (300, 32), (9000, 2), (1200, 150), (300, 1000)])
def test_pieces_fit_into_the_memory_there_is(pixel, classes):
    room = Room(pixel, classes, 128)
    side = room.side(TILE, 10_000)
    held = side**2 * (pixel + 16 * classes) + 4 * classes * overlap_of(side) * 10_000
    assert held <= MOST
    assert side == TILE or side**2 * (pixel + 16 * classes) > MOST / 8, "no smaller than it must be"
    assert (side == TILE) == (pixel + 4 * classes < 500), "by default the U-Net sees pieces of 1,024 pixels"
    assert room.side(TILE, 10_000) >= Room(pixel, classes, 64).side(TILE, 10_000)
    assert room.images((256, 341)) * 256 * 341 * pixel <= MOST
    assert Room(10**9, 2, 192).side(TILE, 10_000) == 192, "never smaller than what validation saw"


def test_many_images_at_once_and_pieces_are_limited_by_what_the_network_takes(segmenter, monkeypatch):
    """The masks are the same; the network is never given more pixels than fit."""
    monkeypatch.setattr("lightning_finetune.tasks.shared.room.MOST", 40_000 * 100)
    monkeypatch.setattr("lightning_finetune.tasks.shared.room._SMALL", 0)
    sources = [np.random.default_rng(seed).integers(0, 255, (96, 130, 3), dtype=np.uint8) for seed in range(8)]
    sources.append(np.random.default_rng(9).integers(0, 255, (400, 601, 3), dtype=np.uint8))
    given: list[int] = []
    segmenter.model.register_forward_pre_hook(lambda _, args: given.append(args[0][:, 0].numel()))
    limited = [mask.mask for mask in segmenter.predict(sources, scale=None)]
    large = segmenter.predict(sources[-1], scale=1.0).mask
    assert max(given) <= 40_000
    given.clear()
    monkeypatch.undo()
    free = [mask.mask for mask in segmenter.predict(sources)]
    assert max(given) > 40_000
    for one, other in zip([*limited, large], [*free, segmenter.predict(sources[-1], scale=1.0).mask], strict=True):
        assert (one == other).mean() > 0.9999


@pytest.fixture
def segmenter() -> UNetSegmenter:
    task = UNetSegmenter(small_net(), num_classes=3)
    task.preprocessing = {"size": [96, 96], "mean": [0.5] * 3, "std": [0.25] * 3, "resize": "crop"}
    return task


@pytest.mark.parametrize("tta", ["none", "dihedral"])
def test_predictions_in_pieces_are_those_of_the_whole(segmenter, tmp_path, tta):
    pixels = np.random.default_rng(0).integers(0, 255, (240, 331, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for options in ({}, {"scale": 1.0}, {"scale": 0.7}):
        whole = segmenter.predict(tmp_path / "a.png", tta=tta, tile=1024, **options)
        pieces = segmenter.predict(tmp_path / "a.png", tta=tta, tile=64, **options)
        assert whole.mask.shape == pieces.mask.shape == (240, 331)
        assert (whole.mask == pieces.mask).mean() > 0.9999
    assert not (segmenter.predict(pixels, scale=1.0).mask == segmenter.predict(pixels).mask).all()


def test_large_and_small_and_broken_images_keep_their_order(segmenter, tmp_path):
    shapes = [(100, 100), (40, 400), (100, 100), (300, 30)]
    sources = [np.full((*shape, 3), place, np.uint8) for place, shape in enumerate(shapes)]
    sources.insert(2, tmp_path / "absent.png")
    found = [prediction for _, prediction in segmenter.predict_each(sources, tile=128, batch_size=3)]
    assert isinstance(found.pop(2), DataError)
    assert [one.mask.shape for one in found] == shapes


@pytest.mark.parametrize("options", [{"tile": 0}, {"tile": 100}, {"tile": -64}, {"scale": 0}, {"scale": float("inf")}])
def test_pieces_and_scales_out_of_range(segmenter, options):
    with pytest.raises(FinetuneError, match=f"{next(iter(options))}: expected"):
        segmenter.predict(np.zeros((64, 64, 3), np.uint8), **options)


CODE = """
import sys, numpy as np, torch
from PIL import Image
from torch import nn
from lightning_finetune import UNetSegmenter
torch.set_num_threads(1)
side, way = int(sys.argv[1]), sys.argv[2]
Image.MAX_IMAGE_PIXELS = None
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 32, 3, padding=1))
task = UNetSegmenter(net.eval(), num_classes=32)
task.preprocessing = {"size": [256, 256], "mean": [0.5] * 3, "std": [0.25] * 3, "resize": "crop"}
pixels = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None], (side, side, 3))
options = {"scale": 1.0, "tile": 512} if way == "scale" else {}
assert task.predict(pixels, **options).mask.shape == (side, side)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "scale"])
def test_memory_of_a_large_photo_is_bounded(way):
    """32 classes of 16 million pixels are 2 GB as probabilities."""
    peaks = {}
    for side in (512, 4096):
        words = [sys.executable, "-c", CODE, str(side), way]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=550)
        peaks[side] = int(done.stdout)
    assert peaks[4096] - peaks[512] < 900, peaks
