"""Files that a table names more than once."""

from pathlib import Path

import pytest

from lightning_finetune import ImageData
from tests.data.images import fill

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
