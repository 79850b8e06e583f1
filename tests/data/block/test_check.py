"""Every image read once before training."""

from pathlib import Path

import numpy as np
import pytest

from lightning_finetune.data.block.check import check_images
from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.errors import DataError
from tests.data.images import fill, picture


def problems(images: list, reports: Path) -> str:
    with pytest.raises(DataError) as caught:
        check_images(images, None, 2, threads=2, reports=reports)
    return str(caught.value)


def test_good_images_and_images_in_memory_pass(tmp_path: Path):
    check_images([*fill(tmp_path, 3), picture(1)], None, 2, threads=2, reports=tmp_path)
    check_images([], None, 2, threads=0, reports=tmp_path)


def test_ten_problems_are_all_told_and_need_no_file(tmp_path: Path):
    paths = fill(tmp_path / "images", 12)
    for path in paths[:10]:
        path.write_bytes(b"")
    text = problems(paths, tmp_path)
    assert all(str(path) in text for path in paths[:10])
    assert not (tmp_path / "bad_images.txt").exists()


def test_each_of_many_is_read_once_and_others_are_not(tmp_path: Path):
    """Also the last of a share of a thread."""
    good, bad = fill(tmp_path / "images", 2)
    bad.write_bytes(b"")
    places = [0, 255, 256, 511, 512, 599]
    images = FilePaths(bad if place in places else good for place in range(600))
    with pytest.raises(DataError, match=f"{len(places)} cannot be used"):
        check_images(images, None, 2, threads=2, reports=tmp_path)
    rows = np.setdiff1d(np.arange(600), places[1:])
    with pytest.raises(DataError, match="1 cannot be used"):
        check_images(images, None, 2, rows=rows, threads=2, reports=tmp_path)


def test_masks_are_held_against_the_images_of_their_rows(tmp_path: Path):
    images = fill(tmp_path, 3)
    masks = [picture(0, size).convert("L").point(lambda _: 1) for size in ((9, 9), (48, 64), (48, 64))]
    check_images(images, masks, 2, rows=np.array([1, 2]), threads=1, reports=tmp_path)
    with pytest.raises(DataError, match="48 x 64 pixels"):
        check_images(images, masks, 2, rows=np.array([0, 2]), threads=1, reports=tmp_path)


def test_more_are_counted_and_listed_in_order_in_a_file(tmp_path: Path):
    paths = fill(tmp_path / "images", 12)
    for path in paths:
        path.write_bytes(b"x")
    text = problems(paths[::-1], tmp_path / "run")
    assert "12 cannot be used" in text
    assert str(tmp_path / "run/bad_images.txt") in text
    listed = [line.split(":")[0] for line in (tmp_path / "run/bad_images.txt").read_text().splitlines()]
    assert listed == [str(path) for path in paths]
