"""0/1 rows of which only the ones are kept."""

import pickle
from pathlib import Path

import numpy as np

from lightning_finetune.data import ImageData
from lightning_finetune.data.block.multi_hot import MultiHot
from tests.data.images import fill


def test_rows_are_those_of_the_whole_matrix() -> None:
    draws = np.random.default_rng(0)
    whole = (draws.random((50, 30)) < 0.1).astype(np.float32)
    whole[7] = 0
    sparse = MultiHot([np.flatnonzero(row).tolist() for row in whole], 30)
    assert (len(sparse), sparse.shape) == (50, (50, 30))
    assert np.array_equal(sparse, whole)
    rows = draws.integers(0, 50, 20)
    assert np.array_equal(sparse[rows], whole[rows])
    assert sparse[rows].dtype == np.float32
    assert np.array_equal(sparse.of(3), np.flatnonzero(whole[3]))
    assert np.array_equal(pickle.loads(pickle.dumps(sparse)), whole)


def test_ten_thousand_labels_take_what_is_said_and_not_what_could_be(tmp_path: Path) -> None:
    paths = fill(tmp_path, 4)
    labels = [[f"{number:05}", f"{(7 * number) % 10_000:05}"] for number in range(10_000)]
    files = [paths[number % 4] for number in range(10_000)]
    data = ImageData.from_lists(files, labels, valid_pct=0.0001, size=32, batch_size=8, num_workers=0)
    assert (data.kind, data.num_classes, data.targets.shape) == ("multi", 10_000, (10_000, 10_000))
    assert len(pickle.dumps(data.targets)) < 300_000  # as numbers for each pair: 400 MB
    batch = next(iter(data.train_dataloader()))
    rows = data.dataset(0).rows[batch["index"]]
    for row, target in zip(rows, batch["label"], strict=True):
        assert {data.classes[k] for k in np.flatnonzero(target)} == set(labels[row])
