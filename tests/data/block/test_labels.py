"""Labels and their encoding."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_finetune.data import ImageData
from lightning_finetune.data.block import labels
from lightning_finetune.data.block.labels import Labels, MultiHot
from lightning_finetune.data.block.paths import FilePaths
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError
from tests.data.images import fill

SPLITS = np.array([Split.TRAIN, Split.TRAIN, Split.VALID], dtype=np.int8)


def test_classes_are_sorted_and_taken_from_training_items():
    classes, targets = Labels("single", ("b", "a", "b")).encode(SPLITS)
    assert classes == ("a", "b")
    assert targets.tolist() == [1, 0, 1]
    assert targets.dtype == np.int64


def test_several_labels_become_noughts_and_ones():
    classes, targets = labels.from_values(["b a", "", "a"], label_delim=" ").encode(SPLITS)
    assert classes == ("a", "b")
    assert np.asarray(targets).tolist() == [[1, 1], [0, 0], [1, 0]]
    assert np.asarray(targets).dtype == np.float32


def test_given_classes_keep_their_order():
    assert Labels("single", ("2", "10", "2"), ("2", "10")).encode(SPLITS)[1].tolist() == [0, 1, 0]


def test_a_validation_label_that_no_training_image_has_is_named():
    with pytest.raises(DataError, match="Did you mean 'bee'") as caught:
        Labels("single", ("ant", "bee", "bea")).encode(SPLITS)
    assert "bea" in str(caught.value)


def test_one_class_is_not_enough():
    with pytest.raises(DataError, match="at least 2 classes"):
        Labels("single", ("a", "a", "a")).encode(SPLITS)


@pytest.mark.parametrize(("pattern", "reason"), [("(", "expression"), ("ant", "group"), (r"^(\d+)", "ant_1")])
def test_patterns_that_cannot_label_say_why(pattern: str, reason: str):
    with pytest.raises(DataError, match=reason):
        labels.from_re(["ant_1.jpg"], pattern)


def test_lists_are_several_labels():
    assert labels.from_values([["a", "b"], []]) == Labels("multi", (("a", "b"), ()))


def test_absent_masks_are_all_named(tmp_path: Path):
    (tmp_path / "1.png").touch()
    masks = FilePaths(tmp_path / f"{k}.png" for k in (1, 2, 3))
    with pytest.raises(DataError, match=r"2 of 3 are not there") as caught:
        labels.from_masks([Path("1.jpg"), Path("2.jpg"), Path("3.jpg")], masks, ["a", "b"])
    assert "2.png" in str(caught.value)
    assert "3.png" in str(caught.value)


def test_equal_labels_are_one_object_however_they_were_read() -> None:
    texts = ["red big", "big red", "red big"] * 5
    single = labels.from_values([text.split()[0] for text in texts]).values
    several = labels.from_values(texts, " ").values
    listed = labels.from_values([text.split() for text in texts]).values
    found = labels.from_re(texts, "^([a-z]+)").values
    folders = labels.from_folder(FilePaths(f"root/{text.split()[0]}/{number}.jpg" for number, text in enumerate(texts)))
    assert single == found == folders.values == ("red", "big", "red") * 5
    assert several == listed == (("red", "big"), ("big", "red"), ("red", "big")) * 5
    for values in (single, several, listed, found, folders.values):
        assert len({id(value) for value in values}) == 2
    assert len({id(name) for names in several for name in names}) == 2


def test_an_optional_group_that_is_absent_is_no_label() -> None:
    with pytest.raises(DataError, match="1 of 2 names"):
        labels.from_re(["ant_1.jpg", "1.jpg"], r"^(ant)?_?\d+")


def test_labels_are_written_as_a_person_reads_them():
    names = ["ant", "bee", "wasp"]
    assert Labels("multi", ()).text(torch.tensor(1), names) == "bee"
    assert Labels("multi", ()).text(torch.tensor([1.0, 0.0, 1.0]), names) == "ant wasp"
    assert Labels("multi", ()).text(torch.tensor([0.25, 0.75, 0.0]), names) == "ant 25% bee 75%"
    assert Labels("multi", ()).text(torch.zeros(3), names) == ""


@pytest.mark.parametrize("missing", [None, "", " ", float("nan"), np.float64("nan"), pd.NA, pd.NaT])
def test_whatever_stands_for_nothing_is_no_label(missing: object):
    with pytest.raises(DataError, match="\n  1"):
        labels.from_values(["a", missing, "b"])
    assert labels.from_values(["a b", missing], " ").values == (("a", "b"), ())


def test_blanks_and_forms_of_letters_do_not_make_other_classes():
    assert labels.from_values(["x", " x", "x\t", "caf\u00e9", "cafe\u0301"]).values == ("x",) * 3 + ("caf\u00e9",) * 2
    assert labels.from_values([["x", " x"]]).values == (("x",),)
    assert labels.from_re(["x _1", "x_2"], "^(.*)_").values == ("x", "x")


def test_tensors_and_arrays_are_what_they_hold():
    assert labels.from_values([torch.tensor(0), np.int64(1), np.array("a")]).values == ("0", "1", "a")
    several = labels.from_values([np.array(["a", "b"]), torch.tensor([3, 7]), ["c"]])
    assert several == Labels("multi", (("a", "b"), ("3", "7"), ("c",)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([["cat"], "dog"], "\n  1"),
        (["cat", ["dog"]], "\n  1"),
        ([["cat"], [["dog"]]], "\n  1"),
        ([["cat"], ["dog", None]], "\n  1"),
        ([{"a": 1}, "b"], "\n  0"),
        ([b"a", "b"], "\n  0"),
        ([np.array([0, 1]), np.array([1, 1])], "0/1 vectors"),
        ([0.9563, 0.2, 0.31, 0.77], "numbers=.COLUMN"),
        (["0.9563", "0.2", "0.31", "0.77"], "numbers=.COLUMN"),
        (["1", "2", "inf", "0.5"], "Measurements|numbers"),
    ],
)
def test_what_is_no_label_is_named(values: list, words: str):
    with pytest.raises(DataError, match=words):
        labels.from_values(values)


@pytest.mark.parametrize("values", [["1.0", "2.0", "3.0"], [1.5, 2.0, 1.5, 2.0], ["007", "1", "2"], [True, False]])
def test_numbers_may_be_names(values: list):
    assert labels.from_values(values).values == tuple(map(str, values))


def test_nothing_separates_no_labels():
    with pytest.raises(DataError, match="label_delim"):
        labels.from_values(["a b"], "")
    with pytest.raises(DataError, match="\n  0"):
        labels.from_values([["a"]], " ")


def test_class_numbers_of_a_dataset_are_what_they_say():
    image = np.zeros((8, 8, 3), np.uint8)
    for targets in ([0, 1, -1, 1], [np.array([0]), np.array([4])], [[0, 2], [1, 1]], [[0, 1], [1, 1, 1]], []):
        with pytest.raises(DataError, match="Expected"):
            ImageData.from_dataset([(image, np.array(target)) for target in targets])


@pytest.mark.parametrize("values", [["['ant', 'red']", "['bee']"], ["('ant',)", "('bee',)"], ["{'ant'}", "{'bee'}"]])
def test_lists_that_a_table_holds_as_text_are_no_names(values: list[str]):
    with pytest.raises(DataError, match=r"lists written as text, .*ast\.literal_eval"):
        labels.from_values(values)
    assert labels.from_values(["[ant]", "bee"]).values == ("[ant]", "bee")


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
