"""The data block, step by step."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_finetune.data import ImageItems
from lightning_finetune.data.block.rows import Pictures
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError
from tests.data.images import fill


def valid_names(items: ImageItems) -> list[str]:
    return [file.name for file, split in zip(items.files, items.splits, strict=True) if split == Split.VALID]


def test_each_step_returns_a_new_block(insects: Path):
    items = ImageItems.from_folder(insects)
    split = items.split_by_pct(0.2)
    assert items.splits is None
    assert split.label_from_folder().labels.values[0] == "ant"
    assert split.labels is None


def test_a_listed_file_splits(insects: Path, tmp_path: Path):
    items = ImageItems.from_folder(insects)
    (tmp_path / "valid.txt").write_text("train/ant/003.jpg\n\n204.jpg\n")
    assert valid_names(items.split_by_file(tmp_path / "valid.txt")) == ["003.jpg", "204.jpg"]
    with pytest.raises(DataError, match="lists validation images"):
        items.split_by_file("absent.txt")


def test_indices_and_functions_split(insects: Path):
    items = ImageItems.from_folder(insects)
    assert valid_names(items.split_by_index([0, 2])) == ["000.jpg", "002.jpg"]
    assert valid_names(items.split_by_func(lambda file: file.stem == "104")) == ["104.jpg"]


def test_images_outside_the_named_folders_are_left_out_and_told(insects: Path, caplog: pytest.LogCaptureFixture):
    items = ImageItems.from_folder(insects).split_by_folder(train="train", valid="elsewhere")
    assert len(items.images) == len(items.splits) == 19
    assert "11 images" in caplog.text


def test_patterns_see_the_path_or_the_name(insects: Path):
    items = ImageItems.from_folder(insects)
    assert items.label_from_re(r"/(\w+)/\d+\.jpg$").labels.values[0] == "ant"
    assert items.label_from_re(r"^(\d)", name_only=True).labels.values[0] == "0"


def test_tables_are_needed_where_columns_are_asked_for(insects: Path):
    items = ImageItems.from_folder(insects)
    for step in (items.split_by_column, items.label_from_df):
        with pytest.raises(DataError, match="from_df"):
            step()


def test_lists_of_labels_must_fit(insects: Path):
    with pytest.raises(DataError, match="30 images, got 1"):
        ImageItems.from_folder(insects).label_from_lists(["a"])


def test_a_linked_folder_is_part_of_the_data_set(insects, tmp_path):
    (tmp_path / "images").symlink_to(insects / "train/ant")
    names = sorted(path.name for path in (insects / "train/ant").iterdir())
    found = ImageItems.from_lists([f"images/{name}" for name in names], tmp_path)
    assert [file.name for file in found.files] == names
    with pytest.raises(DataError, match="lead out of it"):
        ImageItems.from_lists(["images/../../x.jpg"], tmp_path)


def test_every_wrong_name_of_a_list_is_told_by_what_is_wrong_with_it(insects, tmp_path):
    with pytest.raises(DataError, match="null byte") as caught:
        ImageItems.from_lists(["a\0b", "../x.jpg", "absent.jpg"], tmp_path)
    assert "x.jpg" not in str(caught.value)
    with pytest.raises(DataError, match="Expected 2 images; 1 are not there") as caught:
        ImageItems.from_lists(["train/ant/000.jpg", "absent.jpg"], insects)
    assert str(insects / "absent.jpg") in str(caught.value)


def test_a_folder_left_out_takes_its_images_its_rows_and_its_labels_along(insects):
    items = ImageItems.from_folder(insects).label_from_folder()
    table = pd.DataFrame({"name": [file.name for file in items.files]})
    kept = items.with_table(table).split_by_folder(train="train", valid="elsewhere")
    assert [file.name for file in kept.files] == kept.table["name"].tolist()
    assert list(kept.labels.values) == [file.parent.name for file in kept.files]
    assert {file.parent.parent.name for file in kept.files} == {"train"}


def test_paths_that_somebody_gives_are_files_as_those_that_were_found(insects):
    found = ImageItems.from_folder(insects)
    given = ImageItems([*found.files], insects)
    assert given.files == found.files
    assert given.split_by_folder().label_from_folder().datamodule().num_classes == 3


def test_images_in_memory_have_no_paths_and_none_is_read_to_see_it():
    class Pairs:
        def __len__(self):
            return 1000

        def __getitem__(self, item):
            reads.append(item)
            return np.zeros((8, 8, 3), np.uint8), 0

    reads: list[int] = []
    with pytest.raises(DataError, match="in memory"):
        _ = ImageItems(Pictures(Pairs()), Path()).files
    assert len(reads) == 1


def test_random_splits_leave_each_class_its_share_whatever_comes_first(tmp_path):
    for name, count in (("ant", 15), ("bee", 15), ("lone", 1)):
        fill(tmp_path / name, count)
    items = ImageItems.from_folder(tmp_path)
    for seed in range(10):
        after = items.split_by_pct(0.2, seed).label_from_folder()
        before = items.label_from_folder().split_by_pct(0.2, seed)
        assert np.array_equal(after.splits, before.splits)
        shown = after.summary().classes
        assert (shown["ant"]["valid"], shown["bee"]["valid"], shown["lone"]["valid"]) == (3, 3, 0)
    assert not np.array_equal(items.split_by_pct(0.2, 1).splits, items.split_by_pct(0.2, 2).splits)


def test_a_split_that_was_given_is_not_drawn_anew(insects):
    items = ImageItems.from_folder(insects).split_by_pct(0.2).split_by_index([0])
    assert valid_names(items.label_from_folder()) == ["000.jpg"]


def test_every_label_that_two_images_have_is_seen_in_training(tmp_path):
    files = fill(tmp_path, 12)
    labels = [["common"], ["common", "rare"], ["common", "rare", "single"], *[["common", "other"]] * 9]
    for seed in range(10):
        data = ImageItems.from_lists(files).split_by_pct(0.5, seed).label_from_lists(labels).datamodule()
        shown = data.summary().classes
        assert all(shown[name]["train"] for name in ("common", "rare", "single", "other"))
        assert data.summary().counts["valid"] == 6


def test_a_function_that_fails_is_told_with_the_file(insects: Path):
    items = ImageItems.from_folder(insects).split_by_pct()
    for step in (items.label_from_func, items.numbers_from, items.masks_from):
        with pytest.raises(DataError, match=r"/000\.jpg: the function of labels or masks failed: IndexError") as caught:
            step(lambda file: file.name.split("@")[1])
        assert isinstance(caught.value.__cause__, IndexError)
