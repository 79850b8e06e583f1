"""The compact list of files behaves as a list of ``Path`` objects does, and is small."""

import gc
import multiprocessing
import os
import pickle
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_finetune.data import ImageItems
from lightning_finetune.data.block.folder_images import image_files
from lightning_finetune.data.block.paths import FilePaths
from tests.data.images import fill

# Any name that a file system can hold, also one that is no UTF-8: Python reads its bytes as lone surrogates.
NAMES = st.binary(min_size=1, max_size=8).filter(lambda name: not {0, 47} & {*name}).map(os.fsdecode)
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: Path(*parts)), max_size=12)


@given(PATHS, st.slices(12))
def test_it_is_the_list_that_it_was_made_of(paths: list[Path], part: slice) -> None:
    compact = FilePaths(paths)
    assert len(compact) == len(paths)
    assert [*compact] == [compact[place] for place in range(len(paths))] == paths
    assert [compact[place - len(paths)] for place in range(len(paths))] == paths
    assert [*compact[part]] == paths[part]
    assert [*map(Path, compact.folders())] == [path.parent for path in paths]
    assert compact == FilePaths(paths) == paths
    assert compact == pickle.loads(pickle.dumps(compact))
    assert (compact == paths[::-1]) == (paths == paths[::-1])
    assert compact != FilePaths([*paths, "one more"])


def test_places_outside_are_errors_and_numbers_of_numpy_are_places() -> None:
    compact = FilePaths(["a.jpg", "b.jpg", "a.jpg"])
    for place in (3, -4):
        with pytest.raises(IndexError):
            compact[place]
    assert compact[np.int64(1)] == Path("b.jpg")
    assert compact.take(np.array([2, 1, 2])) == [Path("a.jpg"), Path("b.jpg"), Path("a.jpg")]
    assert compact.index(Path("b.jpg")) == 1
    assert compact.count(Path("a.jpg")) == 2


def test_files_are_found_in_the_order_of_sorted_paths(tmp_path: Path) -> None:
    """Also where a folder, its neighbours and files share the beginning of their names."""
    draws = np.random.default_rng(0)
    names = ["a", "a.b", "a-b", "a b", "ab", "A", "é", "z"]
    for _ in range(150):
        folder = tmp_path.joinpath(*draws.choice(names, draws.integers(0, 4)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{draws.choice(names)}{draws.choice(['', '.x', '1'])}.jpg").touch()
    found = image_files(tmp_path)
    assert found == sorted(path for path in tmp_path.rglob("*.jpg") if path.is_file())
    assert len(found) > 100


def test_paths_are_found_from_the_current_folder_and_from_others_alike(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "ant", 2), fill(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    assert image_files(Path()) == [Path("000.jpg"), Path("ant/000.jpg"), Path("ant/001.jpg")]
    assert ImageItems.from_folder(".").label_from_folder().labels.values == ("", "ant", "ant")


def names_of(count: int) -> list[str]:
    return [f"/data/train/class_{number % 100:03}/image_{number:07}.jpg" for number in range(count)]


def test_a_list_takes_little_more_than_its_text() -> None:
    names = names_of(100_000)
    text = sum(map(len, names))
    tracemalloc.start()
    compact = FilePaths(names)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1.3 * text + 8 * len(names)
    assert peak < 2.5 * text
    assert len(pickle.dumps(compact)) < text + 8.1 * len(names)


def look(paths: Iterable[Path | str], answers: multiprocessing.SimpleQueue) -> None:
    gc.disable()  # it writes to all that this process holds, whatever the list
    process = psutil.Process()
    before = process.memory_full_info().uss
    for path in paths:
        str(path)
    answers.put(process.memory_full_info().uss - before)


def copied(paths: Iterable[Path | str]) -> int:
    """Bytes that a forked process comes to hold alone when it looks at each path."""
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    worker = fork.Process(target=look, args=(paths, answers))
    worker.start()
    answer = answers.get()
    worker.join()
    return answer


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork workers")
def test_a_forked_worker_that_looks_at_every_path_copies_nothing() -> None:
    names = names_of(100_000)
    # As text: pathlib keeps a table of names, whose size is that of what else the process did with paths.
    assert copied(FilePaths(names).texts()) < 1e6
    assert copied(list(map(Path, names))) > 25e6  # what it would be
