"""Folders as people have them: each is understood, or refused by what is wrong and with what mends it."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_finetune import ImageData, ImageItems
from lightning_finetune.cli.machine import claim
from lightning_finetune.data.block.splits import Split, split_named
from lightning_finetune.errors import DataError
from tests.data.images import fill


def made(root: Path, *folders: str, each: int = 2) -> Path:
    """Images in each folder, of names that no other folder has."""
    for place, folder in enumerate(folders):
        fill(root / folder, each, start=10 * place)
    return root


def counted(data: ImageData) -> dict[str, int]:
    return {split.name.lower(): int((data.splits == split).sum()) for split in Split}


def refusal(root: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        ImageData.from_folder(root, **options)
    return str(caught.value)


NAMES = {
    Split.TRAIN: ["train", "Train", "TRAINING", "train_set", "train2017", "training-data"],
    Split.VALID: ["valid", "Val", "validation", "dev", "val2017", "Valid_Set"],
    Split.TEST: ["test", "Testing", "test_images", "TEST"],
}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in NAMES.items() for name in names])
def test_splits_have_many_names(split: Split, name: str):
    assert split_named(name) == split


@pytest.mark.parametrize("name", ["trains", "bullet train", "validity", "tested", "images", "train_masks", ""])
def test_other_names_are_none(name: str):
    assert split_named(name) is None


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "dev", "TEST"),
        ("images/train", "images/val", "images/test"),
    ],
)
def test_they_are_found_in_any_case_and_no_image_leaves_its_split(tmp_path: Path, train: str, valid: str, test: str):
    root = made(tmp_path, *(f"{split}/{name}" for split in (train, valid, test) for name in ("ant", "bee")))
    data = ImageData.from_folder(root)
    assert (data.classes, counted(data)) == (["ant", "bee"], {"train": 4, "valid": 4, "test": 4})
    for file, split in zip(data.items.files, data.splits, strict=True):
        assert file.is_relative_to(root / (train, valid, test)[split])


def test_without_validation_the_test_images_stay_tests(tmp_path: Path):
    root = made(tmp_path, "Train/ant", "Train/bee", "Test/ant", "Test/bee", each=10)
    assert "valid_pct=0.2" in refusal(root)
    data = ImageData.from_folder(root, valid_pct=0.2)
    assert counted(data) == {"train": 16, "valid": 4, "test": 20}
    assert all("Test" in str(file) for file, split in zip(data.items.files, data.splits, strict=True) if split == 2)


def test_a_folder_that_is_neither_split_nor_class_is_named_with_a_way_out(tmp_path: Path):
    root = made(tmp_path, "train/ant", "train/bee", "val/ant", "val/bee", "more/ant")
    text = refusal(root)
    assert "\n  more" in text
    items = eval(text.split("To leave them out: ")[1].split(";")[0], {"ImageItems": ImageItems, "root": root})
    assert counted(items) == {"train": 4, "valid": 4, "test": 0}
    made(tmp_path / "b", "one/a", "one/b", "two/a", "two/b", "three/a")
    named = ImageData.from_folder(tmp_path / "b", train="one", valid="two")
    assert counted(named) == {"train": 4, "valid": 4, "test": 0}


@pytest.mark.parametrize(
    ("folders", "options", "words"),
    [
        (("val/ant", "val/bee"), {}, "training images beside 'val'"),
        (("train/ant", "train/bee", "val/ant", "validation/ant"), {}, "['val', 'validation']"),
        (("Train/a", "train/b", "valid/a"), {}, "\n  Train"),
        (("monday/ant", "monday/bee", "tue/ant"), {"train": "mondays", "valid": "tue"}, "Did you mean 'monday'"),
        (("pets/train/ant", "pets/train/bee", "pets/val/ant"), {}, "root='{root}/pets'"),
        (("images", "masks"), {}, "masks='masks'"),
        (("train/images", "train/masks", "valid/images", "valid/masks"), {}, "masks='masks'"),
        (("", "Annotations"), {}, "masks='Annotations'"),
        (("train/a", "train/b", "val/a", "train_masks"), {}, "masks='train_masks'"),
        (("train/cat", "train/cat/persian", "train/dog", "val/cat"), {}, "images in 'cat' and in 'cat/persian'"),
        (("cat/1", "cat/2", "dog/1", "dog/2"), {}, "\n  cat/1\n  dog/1"),
        (("",), {}, "from_name_re"),
        (("train/ant", "train/bee", "val"), {}, "images that lie in none"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_by_name(tmp_path: Path, folders, options, words: str):
    text = refusal(made(tmp_path, *folders), **options)
    assert words.replace("{root}", str(tmp_path)) in text


def test_advice_on_splits_within_classes_leads_to_them(tmp_path: Path):
    root = made(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test")
    text = refusal(root)
    data = eval(text.split("Use the data block: ")[1], {"ImageItems": ImageItems, "root": root})
    assert (data.classes, counted(data)) == (["cat", "dog"], {"train": 4, "valid": 4, "test": 0})
    assert {file.parent.name for file, split in zip(data.items.files, data.splits, strict=True) if split} == {"test"}


def test_advice_on_classes_in_classes_leads_to_the_outer_ones(tmp_path: Path):
    text = refusal(made(tmp_path, "cat/1", "cat/2", "dog/1", "dog/2"))
    code = text.split("If the outer names are the classes: ")[1].split(" If they are splits")[0].rstrip(".")
    assert eval(code, {"ImageItems": ImageItems, "root": tmp_path}).classes == ["cat", "dog"]


def test_a_table_beside_images_without_classes_is_named(tmp_path: Path):
    made(tmp_path, "train/n01/images", "train/n02/images", "val/images")
    (tmp_path / "val/val_annotations.txt").touch()
    assert "'val_annotations.txt'" in refusal(tmp_path)


def test_folders_of_images_within_classes_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """As Tiny ImageNet has them."""
    made(tmp_path, *(f"{split}/{name}/images" for split in ("train", "val") for name in ("n01", "n02")), "test/images")
    data = ImageData.from_folder(tmp_path)
    assert (data.classes, counted(data)) == (["n01", "n02"], {"train": 4, "valid": 4, "test": 0})
    assert "predict them" in caplog.text


def test_the_innermost_of_nested_folders_is_the_class_and_that_is_said(tmp_path: Path, caplog):
    root = made(tmp_path, "pets/cat", "pets/dog", "birds/owl")
    with caplog.at_level(logging.WARNING):
        assert ImageData.from_folder(root).classes == ["cat", "dog", "owl"]
    assert "\n  birds/owl\n  pets/cat" in caplog.text


@pytest.mark.parametrize("classes", [("with_mask", "without_mask"), ("mask", "no mask"), ("label", "sticker")])
def test_classes_may_be_called_like_masks(tmp_path: Path, classes):
    assert ImageData.from_folder(made(tmp_path, *classes)).classes == sorted(classes)


def test_names_of_classes_are_one_whatever_the_form_of_their_letters_and_blanks(tmp_path: Path):
    root = made(tmp_path, "train/caf\u00e9", "train/tea ", "val/cafe\u0301", "val/tea")
    assert ImageData.from_folder(root).classes == ["caf\u00e9", "tea"]


def test_hidden_folders_and_a_picture_beside_the_splits_are_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = made(tmp_path, "train/ant", "train/bee", "val/ant", ".git/objects", "train/.thumbs")
    fill(root, 1, start=90)
    assert counted(ImageData.from_folder(root)) == {"train": 4, "valid": 2, "test": 0}
    assert "1 images lie in none" in caplog.text


def test_masks_find_their_splits_too(tmp_path: Path):
    root = made(tmp_path, "images/train", "images/val")
    for name in ("train", "val"):
        for file in (root / "images" / name).iterdir():
            (root / "Masks" / name).mkdir(parents=True, exist_ok=True)
            ids = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) % 2
            Image.fromarray(ids).save(root / "Masks" / name / f"{file.stem}.png")
    assert counted(ImageData.from_folder(root, masks="masks", codes=["a", "b"])) == {"train": 2, "valid": 2, "test": 0}


@pytest.mark.parametrize(("known", "other", "lacking"), [("valid", "lessons", "train"), ("train", "eval", "valid")])
def test_a_split_under_a_name_of_its_own_is_asked_for_and_found_by_it(tmp_path: Path, known, other, lacking):
    made(tmp_path, f"{known}/ant", f"{known}/bee", f"{other}/ant", f"{other}/bee")
    assert f"Name it: {lacking}={other!r}" in refusal(tmp_path)
    assert counted(ImageData.from_folder(tmp_path, **{lacking: other})) == {"train": 4, "valid": 4, "test": 0}


@pytest.mark.parametrize("folders", [("ant", "bee"), ("train/ant", "train/bee", "val/ant", "val/bee")])
def test_what_runs_wrote_into_the_folder_of_their_data_is_no_data(tmp_path: Path, folders):
    before = counted(ImageData.from_folder(made(tmp_path, *folders, each=5)))
    fill(tmp_path / "lightning_logs/version_0", 3)
    fill(tmp_path / "wandb/run-1/files/media/images", 3)
    claim(tmp_path / "predictions", ["predictions.csv"], overwrite=False)
    claim(tmp_path / "others", ["masks"], overwrite=False)
    fill(tmp_path / "others/overlays", 3)
    data = ImageData.from_folder(tmp_path)
    assert (counted(data), data.classes) == (before, ["ant", "bee"])
    assert len(ImageItems.from_folder(tmp_path / "others").files) == 3  # one who asks for them gets them


def test_predicted_masks_are_no_masks_of_the_data(tmp_path: Path):
    fill(tmp_path / "images", 4)
    claim(tmp_path / "predictions", [], overwrite=False)
    for folder in ("masks", "predictions/masks", "predictions/overlays"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save(tmp_path / folder / f"{number:03d}.png")
    data = ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b"])
    assert len(data.items.files) == 4
