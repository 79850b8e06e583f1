"""Every image read once before training."""

from pathlib import Path

import numpy as np
import pytest

from lightning_finetune.data.block.check import look, refuse
from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.errors import DataError
from tests import forking
from tests.data.images import fill, picture


def check(images: list, masks: list | None = None, rows: np.ndarray | None = None, threads: int = 2) -> list[str]:
    rows = np.arange(len(images)) if rows is None else rows
    return look(images, masks, 2, rows=rows, decoded=rows, threads=threads, shared=True).problems


def problems(images: list, reports: Path) -> str:
    with pytest.raises(DataError) as caught:
        refuse(check(images), reports)
    return str(caught.value)


def test_good_images_and_images_in_memory_pass(tmp_path: Path):
    assert check([*fill(tmp_path, 3), picture(1)]) == []
    assert check([], threads=0) == []
    refuse([], tmp_path)


HELD = """
import logging, sys
from pathlib import Path
import numpy as np
from lightning_finetune.data.block.check import look
from lightning_finetune.data.block.paths import FilePaths
logging._lock.acquire()  # as torch's error of a killed worker leaves it to the main thread, if it comes amid a fork
files, rows = FilePaths(sorted(Path(sys.argv[1]).iterdir())), np.arange(4)
found = look(files, files, 256, rows=rows, decoded=rows, threads=2, shared=False)
print(len(found.sizes), "are read")
"""


def test_readers_do_not_wait_for_the_lock_of_logging(tmp_path: Path):
    for number, ending in enumerate(("png", "jpg", "tif", "webp")):
        picture(number).convert("L").save(tmp_path / f"{number}.{ending}")
    done = forking.run("-c", HELD, tmp_path)
    assert done.stdout == "4 are read\n", done.stderr[-2000:]


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
    assert len(check(images)) == len(places)
    assert len(check(images, rows=np.setdiff1d(np.arange(600), places[1:]))) == 1


def test_masks_are_held_against_the_images_of_their_rows(tmp_path: Path):
    images = fill(tmp_path, 3)
    masks = [picture(0, size).convert("L").point(lambda _: 1) for size in ((9, 9), (48, 64), (48, 64))]
    assert check(images, masks, np.array([1, 2])) == []
    (problem,) = check(images, masks, np.array([0, 2]))
    assert "48 x 64 pixels" in problem


def test_sizes_are_those_of_files_as_they_are_seen(tmp_path: Path):
    images = [*fill(tmp_path / "a", 2), *fill(tmp_path / "b", 1, size=(20, 30)), picture(0)]
    rows = np.arange(4)
    seen = look(images, None, 2, rows=rows, decoded=rows[:2], threads=2, shared=False)
    assert seen.sizes.tolist() == [[48, 64], [48, 64], [20, 30], [0, 0]]
