import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_finetune.data import ImageData, ImageItems
from lightning_finetune.data.block.numbers import from_numbers
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError
from tests.data.images import fill

QUIET = {"size": 32, "batch_size": 4, "num_workers": 0}


@pytest.fixture
def table(tmp_path):
    """Ten images whose age is ten times their number, and their height 1.5 times."""
    fill(tmp_path, 10)
    rows = [
        {"file": f"{k:03d}.jpg", "age": str(10 * k), "height": f"{1.5 * k}", "valid": k % 5 == 0} for k in range(10)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def labels(data: ImageData, split: Split) -> list:
    return [
        label
        for batch in getattr(data, f"{split.name.lower().replace('valid', 'val')}_dataloader")()
        for label in batch["label"].tolist()
    ]


def test_columns_of_a_table(table):
    data = ImageData.from_csv(table, numbers=["age", "height"], valid_col="valid", **QUIET)
    assert (data.kind, data.classes, data.num_classes) == ("number", ["age", "height"], 2)
    assert labels(data, Split.VALID) == [[0, 0], [50, 7.5]]
    assert sorted(labels(data, Split.TRAIN)) == [[10.0 * k, 1.5 * k] for k in (1, 2, 3, 4, 6, 7, 8, 9)]


def test_the_statistics_are_those_of_the_training_images(table):
    data = ImageData.from_csv(table, numbers="age", valid_col="valid", **QUIET)
    ages = np.array([10, 20, 30, 40, 60, 70, 80, 90])
    assert data.target_statistics() == (pytest.approx([ages.mean()]), pytest.approx([ages.std()]))


def test_functions_of_paths_and_names(table):
    by_path = ImageItems.from_folder(table).split_by_index([0, 3]).numbers_from(lambda path: int(path.stem))
    assert labels(by_path.datamodule(**QUIET), Split.VALID) == [[0], [3]]
    by_name = ImageData.from_name_func(table, lambda name: [int(name[:3]), 7], numbers=["k", "seven"], **QUIET)
    assert by_name.classes == ["k", "seven"]
    assert all(seven == 7 for _, seven in labels(by_name, Split.TRAIN))


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_floats_of_a_dataset_are_numbers(shape):
    numbers = torch.arange(float(np.prod(shape))).reshape(shape) / 4
    pairs = TensorDataset(torch.zeros(6, 3, 32, 32, dtype=torch.uint8), numbers)
    data = ImageData.from_dataset(pairs, pairs, **QUIET)
    assert data.kind == "number"
    assert torch.tensor(labels(data, Split.VALID)).equal(numbers.reshape(6, -1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["3", "", "x", "nan"], r"for 3 of 4; rows:\n  1: ''\n  2: 'x'\n  3: 'nan'\n"),
        ([[1, 2], [3]], r"Expected 2 finite numbers for each image, got others for 1 of 2; rows:\n  1: \[3\]"),
        ([1.5, "1,5"], r"others for 1 of 2; rows:\n  1: '1,5'\n"),
        ([1.0, float("inf")], "for 1 of 2"),
        ([], "one or several"),
    ],
)
def test_what_is_no_number_is_named_by_its_row(values, message):
    with pytest.raises(DataError, match=message):
        from_numbers(values)


def test_pictures_and_summary_show_numbers(table):
    data = ImageData.from_csv(table, numbers=["age", "height"], valid_col="valid", **QUIET)
    titles = [axes.get_title() for axes in data.show_batch(2, "valid").axes]
    assert titles[:2] == ["age 0\nheight 0", "age 50\nheight 7.5"]
    assert "8 train, 2 valid" in str(data.summary())
    assert "no train images" not in str(data.summary())
