"""What a summary counts, and what it warns of."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_finetune.data import ImageData, ImageItems
from lightning_finetune.data.block.splits import Split
from tests.data.images import fill, picture


def test_counts_sizes_and_classes(insects: Path):
    summary = ImageItems.from_folder(insects).split_by_folder().label_from_folder().summary()
    assert summary.counts == {"train": 19, "valid": 11}
    assert summary.classes["wasp"] == {"train": 6, "valid": 3}
    assert summary.sizes == ((48, 64), (48, 64), (48, 64))
    text = str(summary)
    assert "19 train, 11 valid" in text
    assert "48 x 64" in text


def test_several_labels_count_each(insects: Path):
    items = ImageItems.from_folder(insects).split_by_folder()
    summary = items.label_from_func(lambda file: ["insect", file.parent.name]).summary()
    assert summary.classes["insect"] == {"train": 19, "valid": 11}


def test_it_warns_of_missing_classes_of_leaks_and_of_tiny_images(tmp_path: Path):
    fill(tmp_path / "train/ant", 3, size=(80, 90)), fill(tmp_path / "train/bee", 3, start=10, size=(80, 90))
    (tmp_path / "valid/ant").mkdir(parents=True)
    shutil.copy(tmp_path / "train/ant/001.jpg", tmp_path / "valid/ant/again.jpg")
    picture(99, (20, 80)).save(tmp_path / "valid/ant/tiny.jpg")
    warnings = ImageData.from_folder(tmp_path).summary().warnings
    assert len(warnings) == 3
    assert warnings[0] == "class 'bee' has no valid images"
    assert "again.jpg" in warnings[1]
    assert "001.jpg" in warnings[1]
    assert "tiny.jpg" in warnings[2]


def test_copies_within_one_split_are_no_leak(tmp_path: Path):
    fill(tmp_path / "train/a", 2, size=(80, 80)), fill(tmp_path / "train/b", 2, start=5, size=(80, 80))
    fill(tmp_path / "valid/a", 1, start=8, size=(80, 80)), fill(tmp_path / "valid/b", 1, start=9, size=(80, 80))
    shutil.copy(tmp_path / "train/a/000.jpg", tmp_path / "train/a/copy.jpg")
    assert ImageData.from_folder(tmp_path).summary().warnings == ()


def test_every_class_is_counted_in_each_split_and_groups_of_equals_are_named_whole(tmp_path: Path):
    paths = fill(tmp_path, 6, size=(80, 80))
    for number in (3, 4):
        shutil.copy(paths[0], tmp_path / f"copy{number}.jpg")
    files = sorted(tmp_path.iterdir())
    draws = np.random.default_rng(0)
    names = [f"label {number}" for number in range(40)]
    given = [[*draws.choice(names, 5), names[k]] for k in range(8)] * 10
    items = ImageItems.from_lists(files * 10, tmp_path).label_from_lists(given).split_by_index(range(2, 80, 3))
    items = replace(items, labels=replace(items.labels, classes=tuple(sorted(names))))
    summary = items.summary()
    for split, value in (("train", Split.TRAIN), ("valid", Split.VALID)):
        count = Counter(name for row, one in enumerate(given) if items.splits[row] == value for name in set(one))
        assert {name: shown[split] for name, shown in summary.classes.items()} == {name: count[name] for name in names}
    (leak,) = [warning for warning in summary.warnings if "more than one split" in warning]
    assert leak.startswith("6 images are in more than one split")
    equal = next(line for line in leak.splitlines() if "copy3.jpg" in line)
    assert (equal.count("000.jpg"), equal.count("copy3.jpg"), equal.count("copy4.jpg")) == (10, 10, 10)


def test_of_many_classes_the_rarest_are_named(tmp_path: Path):
    for number in range(6):
        fill(tmp_path / f"train/class {number}", 1 + number % 3, start=10 * number, size=(80, 80))
        fill(tmp_path / f"valid/class {number}", 1, start=100 + 10 * number, size=(80, 80))
    text = ImageData.from_folder(tmp_path).summary().text(2)
    assert "class 0" in text
    assert "class 3" in text
    assert "class 1" not in text
    assert "and 4 more classes with as many training images or more" in text


def test_without_comparing_no_file_is_read_again(tmp_path: Path):
    fill(tmp_path / "train/a", 2, size=(80, 80)), fill(tmp_path / "train/b", 2, start=5, size=(80, 80))
    (tmp_path / "valid/b").mkdir(parents=True), fill(tmp_path / "valid/a", 1, start=8, size=(80, 80))
    shutil.copy(tmp_path / "train/b/005.jpg", tmp_path / "valid/b/again.jpg")
    data = ImageData.from_folder(tmp_path)
    assert len(data.summary().warnings) == 1
    assert data.summary(compare=False).warnings == ()


HEADER = "name,label,is_valid\n"


def warned(root: Path, rows: list[str], caplog: pytest.LogCaptureFixture, **options) -> str:
    fill(root, 6)
    (root / "labels.csv").write_text(HEADER + "\n".join(rows))
    data = ImageData.from_csv(root, valid_col="is_valid", num_workers=0, **options)
    caplog.clear()
    data.setup("fit")
    data.setup("fit")
    return caplog.text


ONCE = ["000.jpg,a,0", "001.jpg,b,0", "002.jpg,a,1"]


def test_a_file_with_two_labels_is_named_once(tmp_path: Path, caplog):
    said = warned(tmp_path, [*ONCE, "001.jpg,a,0", "000.jpg,a,0"], caplog)
    assert said.count("1 images are named in several rows with different labels") == 1
    assert "001.jpg" in said
    assert "000.jpg" not in said, "oversampled, which is nobody's mistake"
    assert "different splits" not in said


def test_a_file_that_trains_and_validates_is_named(tmp_path: Path, caplog):
    said = warned(tmp_path, [*ONCE, "000.jpg,a,1"], caplog)
    assert "1 images are named in several rows that are in different splits" in said
    assert "different labels" not in said


def test_several_labels_in_several_rows_are_no_way_to_give_them(tmp_path: Path, caplog):
    said = warned(tmp_path, [*ONCE, "000.jpg,b,0"], caplog, label_delim=" ")
    assert "join these in one row" in said


def test_what_is_named_once_is_no_news(tmp_path: Path, caplog):
    assert "several rows" not in warned(tmp_path, ONCE, caplog)


@pytest.mark.parametrize("names", [("1", "1.0"), ("7", "007"), ("ant", "ant\u200b"), ("Ant", "ant")])
def test_classes_that_look_alike_are_named(tmp_path: Path, names: tuple[str, str]):
    data = ImageData.from_lists(fill(tmp_path, 12), [*names, "wasp"] * 4)
    assert any(f"classes {[*sorted(names)]} differ by" in text for text in data.summary().warnings)
    data = ImageData.from_lists(fill(tmp_path, 12), ["1.0", "10", "1.5"] * 4)
    assert not any("differ by" in text for text in data.summary().warnings)
