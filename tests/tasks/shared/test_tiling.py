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
from lightning_finetune.tasks.shared.tiling import in_tiles, largest, overlap_of, spans

ROOT = Path(__file__).parents[3]


def small_net(classes: int = 3, *, strided: bool = False) -> nn.Module:
    """A field of view of a few pixels."""
    torch.manual_seed(0)
    down = [nn.Conv2d(8, 8, 4, stride=4), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, stride=4), nn.ReLU()]
    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), *(down if strided else []), last).eval()


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
    calls = iter(range(100))
    found = in_tiles(lambda part: torch.full_like(part[:, :1], float(next(calls))), noise(1, 3, 64, 512), 128)[0, 0, 0]
    assert found.diff().abs().max() < 0.1
    assert (found.min(), found.max()) == (0, len(spans(512, 128)) - 1)


@pytest.mark.parametrize("full", [(200, 300), (400, 601), (77, 90), (1, 1)])
@pytest.mark.parametrize("band", [7, 64, 1000])
def test_rows_come_to_full_size_as_the_whole_does(full, band):
    values = noise(4, 130, 170)
    whole = nn.functional.interpolate(values[None], full, mode="bilinear")[0]
    ids = torch.from_numpy(largest(iter(values.split(band, dim=1)), (130, 170), full))
    assert ids.dtype == torch.int64
    chosen = whole.gather(0, ids[None])[0]
    assert (whole.amax(0) - chosen).abs().max() < 1e-5  # of equal ones either


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
from tests.tasks.shared.test_tiling import UNetSegmenter, small_net
torch.set_num_threads(1)
side, way = int(sys.argv[1]), sys.argv[2]
Image.MAX_IMAGE_PIXELS = None
task = UNetSegmenter(small_net(32), num_classes=32)
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
