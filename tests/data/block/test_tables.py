"""Tables as people export them: read, or refused with the option that mends it."""

import re
from pathlib import Path

import pandas as pd
import pytest

from lightning_finetune import ImageData, ImageItems
from lightning_finetune.errors import DataError
from tests.data.images import fill

ROWS = [("000", "cat"), ("001", "dog"), ("002", "cat"), ("003", "dog")]


def written(root: Path, separator: str = ",", header: str | None = "image,label", ending: str = ".jpg") -> Path:
    lines = [] if header is None else [header.replace(",", separator)]
    lines += [separator.join((name + ending, label)) for name, label in ROWS]
    (root / "labels.csv").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("header", ["image,label", None])
def test_columns_may_be_separated_in_any_way_and_need_no_names(tmp_path: Path, caplog, separator, header):
    fill(tmp_path, 4)
    data = ImageData.from_csv(written(tmp_path, separator, header))
    assert data.items.labels.values == ("cat", "dog", "cat", "dog")
    assert ("no header" in caplog.text) == (header is None)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfimage,label\r\n000.jpg,cat\r\n001.jpg,dog\r\n002.jpg,dog\r\n",
        b'image,label\n"000.jpg","a, b; c"\n001.jpg,dog\n002.jpg,dog\n',
    ],
)
def test_marks_of_an_editor_and_quotes_are_no_matter(tmp_path: Path, content: bytes):
    fill(tmp_path, 3)
    (tmp_path / "labels.csv").write_bytes(content)
    assert ImageData.from_csv(tmp_path, image_col="image", label_col="label").items.labels.values[1:] == ("dog", "dog")


def test_a_comma_more_at_the_end_of_each_row_moves_no_column(tmp_path: Path):
    fill(tmp_path, 3)
    (tmp_path / "labels.csv").write_text("image,label\n000.jpg,cat,\n001.jpg,dog,\n002.jpg,dog,\n")
    assert ImageData.from_csv(tmp_path).items.labels.values == ("cat", "dog", "dog")


@pytest.mark.parametrize(
    ("place", "ending", "options"),
    [
        ("", "", {"suffix": ".jpg"}),
        ("images", ".jpg", {"folder": "images"}),
        ("train/images", "", {"folder": "train/images", "suffix": ".jpg"}),
    ],
)
def test_what_mends_names_is_said_and_mends_them(tmp_path: Path, place: str, ending: str, options: dict):
    fill(tmp_path / place, 4)
    written(tmp_path, ending=ending)
    with pytest.raises(DataError, match="are not there") as caught:
        ImageData.from_csv(tmp_path)
    advice = str(caught.value).split("They are there with ")[1].rstrip(".")
    assert eval(f"dict({advice})") == options
    assert ImageData.from_csv(tmp_path, **options).classes == ["cat", "dog"]


def test_options_that_are_too_much_are_named(tmp_path: Path):
    fill(tmp_path, 4)
    with pytest.raises(DataError, match="without folder and suffix"):
        ImageData.from_csv(written(tmp_path), suffix=".jpg")


def test_the_column_of_images_is_found(tmp_path: Path):
    fill(tmp_path, 4)
    names, labels = [f"{name}.jpg" for name, _ in ROWS], [label for _, label in ROWS]
    table = pd.DataFrame({"id": [7, 8, 9, 10], "label": labels, "file": names})
    with pytest.raises(DataError, match="image_col='file'"):
        ImageData.from_df(table, tmp_path)
    assert ImageData.from_df(table, tmp_path, image_col="file").classes == ["cat", "dog"]


@pytest.mark.parametrize("columns", [["label"], ["label", "age"]])
def test_names_in_the_index_are_found(tmp_path: Path, columns: list[str]):
    fill(tmp_path, 4)
    labels = [label for _, label in ROWS]
    table = pd.DataFrame({"label": labels, "age": [1, 2, 3, 4]}, index=[f"{name}.jpg" for name, _ in ROWS])[columns]
    with pytest.raises(DataError, match=r"index of the table names images.*table\.reset_index\(\)"):
        ImageData.from_df(table, tmp_path)
    assert ImageData.from_df(table.reset_index(), tmp_path).classes == ["cat", "dog"]


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, " "])
def test_a_row_without_a_name_is_told(tmp_path: Path, nothing: object):
    fill(tmp_path, 4)
    table = pd.DataFrame({"file": ["000.jpg", nothing, "002.jpg"], "label": ["cat", "dog", "cat"]}, dtype=object)
    with pytest.raises(DataError, match=r"name of an image in each row; rows without one:\n  1$"):
        ImageData.from_df(table, tmp_path)


def test_a_row_without_a_label_is_told_whatever_pandas_put_there(tmp_path: Path):
    fill(tmp_path, 4)
    labels = pd.array(["cat", pd.NA, "dog", "dog"], dtype="string")
    table = pd.DataFrame({"file": [f"{name}.jpg" for name, _ in ROWS], "label": labels})
    with pytest.raises(DataError, match=r"label for each item; rows without one:\n  1$"):
        ImageData.from_df(table, tmp_path)


def test_one_name_that_is_nowhere_gets_no_advice(tmp_path: Path):
    fill(tmp_path / "images", 3)
    with pytest.raises(DataError, match="003") as caught:
        ImageData.from_csv(written(tmp_path))
    assert "They are there" not in str(caught.value)


def test_a_pattern_for_paths_says_so(tmp_path: Path):
    fill(tmp_path / "cat_1", 2), fill(tmp_path / "dog_1", 2)
    with pytest.raises(DataError, match="label_from_re") as caught:
        ImageData.from_name_re(tmp_path, r"/([a-z]+)_\d/")
    assert "4 of 4" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("image,label\n000.jpg,cat,black\n001.jpg,dog\n", "expected 2 columns, .* got more in lines:\n  2\nPut values"),
        ("image,label\n000.jpg,cat\n001.jpg,dog,brown\n", "labels.csv: expected a table with a header and commas"),
        ("image,label\n", "Expected the names of images under .*, got none"),
    ],
)
def test_what_would_be_lost_of_a_table_is_told(tmp_path: Path, rows: str, words: str):
    fill(tmp_path, 2)
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(DataError, match=words):
        ImageData.from_csv(tmp_path)


@pytest.mark.parametrize(
    ("name", "written_as", "shown"),
    [
        ("a/IMG_1.JPG", "a/img_1.jpg", "'a/IMG_1.JPG' for 'a/img_1.jpg'"),
        ("a/1.jpg", "a\\1.jpg", r"'a/1.jpg' for 'a\\\\1.jpg'"),
        ("1.jpg", ".\\1.jpg", r"'1.jpg' for '\.\\\\1.jpg'"),
        ("ka\u0308fer.jpg", "k\xe4fer.jpg", r"'ka\\u0308fer.jpg' for 'k\\xe4fer.jpg'"),
    ],
)
def test_names_that_other_systems_take_for_equal_are_found_and_told_apart(tmp_path: Path, name, written_as, shown):
    (fill(tmp_path / "a", 1)[0]).rename(tmp_path / name)
    (tmp_path / "labels.csv").write_text(f"image,label\n{written_as},cat\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"They are there, but written otherwise, such as {shown}: capitals"):
        ImageData.from_csv(tmp_path)


def test_a_list_of_validation_images_may_have_been_saved_by_any_editor(tmp_path: Path):
    fill(tmp_path, 3)
    (tmp_path / "valid.txt").write_bytes("\ufeff001.jpg\r\n".encode())
    items = ImageItems.from_folder(tmp_path).split_by_file()
    assert items.splits.tolist() == [0, 1, 0]
    (tmp_path / "valid.txt").write_bytes("k\xe4fer.jpg".encode("latin-1"))
    with pytest.raises(DataError, match=r"valid\.txt: expected UTF-8"):
        ImageItems.from_folder(tmp_path).split_by_file()


FLAGS = {
    "one each": ("image,cat,dog", ("1,0", "0,1", "1,0", "0,1"), ["cat", "dog"], "single"),
    "several": ("image,cat,dog,red", ("1,0,1", "0,1,1", "1,1,0", "0,1,0"), ["cat", "dog", "red"], "multi"),
    "floats": ("image,cat,dog", ("1.0,0.0", "0.0,1.0", "1.0,0.0", "0.0,1.0"), ["cat", "dog"], "single"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_column_for_each_label_is_not_taken_for_the_labels_and_the_way_out_works(tmp_path: Path, case: str):
    header, rows, classes, kind = FLAGS[case]
    files = fill(tmp_path, len(rows))
    lines = [f"{file.name},{row}" for file, row in zip(files, rows, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *lines]))
    with pytest.raises(DataError, match="a column for each label") as error:
        ImageData.from_csv(tmp_path, valid_pct=0.25)
    names, joined, options = re.search(
        r"names = (list\(.*?\]\)).*, table\['labels'\] = (.*), and give (.*?)\. If", str(error.value)
    ).groups()
    table = pd.read_csv(tmp_path / "labels.csv")
    scope = {"table": table}
    scope["names"] = eval(names, scope)
    table["labels"] = eval(joined, scope)
    data = ImageData.from_df(table, tmp_path, valid_pct=0.25, **eval(f"dict({options})"))
    assert (data.classes, data.kind) == (classes, kind)
    assert ImageData.from_csv(tmp_path, label_col="cat", valid_pct=0.25).kind == "single"


def test_a_column_of_the_validation_set_is_no_label(tmp_path: Path):
    files = fill(tmp_path, 4)
    lines = [f"{file.name},{row}" for file, row in zip(files, ("1,0", "0,0", "1,1", "0,1"), strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,ill,is_valid", *lines]))
    assert ImageData.from_csv(tmp_path, valid_col="is_valid").classes == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "kind"), [(b"PK\3\4\0", "Excel"), (b"SQLite format 3\0", "SQLite"), (b"\1\0", "other bytes. Export")]
)
def test_what_is_no_text_is_told(tmp_path: Path, content: bytes, kind: str):
    (tmp_path / "labels.csv").write_bytes(content + bytes(100))
    with pytest.raises(DataError, match=kind):
        ImageData.from_csv(tmp_path)


def test_numbers_with_a_comma_are_numbers(tmp_path: Path):
    files = fill(tmp_path, 4)
    lines = [f"{file.name};{place},5" for place, file in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["image;value", *lines]))
    with pytest.raises(DataError, match="write them with a point"):
        ImageData.from_csv(tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        'image, label\n000.jpg, "cat"\n001.jpg, "dog"\n002.jpg, "cat"\n003.jpg, "dog"\n',
        "000.jpg  cat\n001.jpg  dog\n002.jpg   cat\n003.jpg  dog\n",
        "image,label\n000.jpg,cat\n001.jpg,dog\n002.jpg,cat\n003.jpg,dog\n,\n,\n",
    ],
)
def test_blanks_after_separators_and_rows_of_separators_alone_do_not_count(tmp_path: Path, rows: str):
    fill(tmp_path, 4)
    (tmp_path / "labels.csv").write_text(rows)
    assert ImageData.from_csv(tmp_path).items.labels.values == ("cat", "dog", "cat", "dog")


def test_advice_on_the_column_of_images_leads_to_it_and_asks_for_the_labels_too(tmp_path: Path):
    fill(tmp_path, 4)
    (tmp_path / "labels.csv").write_text("".join(f"{place} {name}.jpg\n" for place, (name, _) in enumerate(ROWS)))
    with pytest.raises(DataError, match="image_col='1'"):
        ImageData.from_csv(tmp_path)
    with pytest.raises(DataError, match=r"label_col: expected the column of labels, got 1, .* of \['0', '1'\]"):
        ImageData.from_csv(tmp_path, image_col="1")
    assert ImageData.from_csv(tmp_path, image_col="1", numbers="0").kind == "number"  # the first row is there too


@pytest.mark.parametrize(("column", "flags"), [("Split", "TRAIN val TRAIN test"), ("isValid", "0 1 0 1")])
def test_a_column_of_splits_that_nobody_named_is_told(tmp_path: Path, caplog, column: str, flags: str):
    files = fill(tmp_path, 8)
    lines = [
        f"{file.name},{'ab'[place // 4]},{flag}"
        for place, (file, flag) in enumerate(zip(files, 2 * flags.split(), strict=True))
    ]
    (tmp_path / "labels.csv").write_text("\n".join([f"image,label,{column}", *lines]))
    ImageData.from_csv(tmp_path)
    assert f"valid_col='{column}'" in caplog.text
    caplog.clear()
    assert ImageData.from_csv(tmp_path, valid_col=column).splits.tolist()[:2] == [0, 1]
    assert not caplog.text


@pytest.mark.parametrize(("yes", "no"), [("1", "-1"), ("True", "False")])
def test_flags_may_be_written_in_other_ways(tmp_path: Path, yes: str, no: str):
    files = fill(tmp_path, 4)
    rows = (f"{yes},{no},{yes}", f"{no},{yes},{yes}", f"{yes},{yes},{no}", f"{no},{yes},{no}")
    lines = [f"{file.name},{row}" for file, row in zip(files, rows, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,cat,dog,red", *lines]))
    with pytest.raises(DataError, match=r"got yes and no in .*'cat', 'dog', 'red'"):
        ImageData.from_csv(tmp_path)


def test_a_column_that_puts_all_images_on_one_side_is_told(tmp_path: Path):
    fill(tmp_path, 4)
    (tmp_path / "labels.csv").write_text("image,label,valid\n" + "".join(f"{n}.jpg,{a},1\n" for n, a in ROWS))
    with pytest.raises(DataError, match="got none for train"):
        ImageData.from_csv(tmp_path, valid_col="valid")
