"""Masks: found beside or apart from their images, and checked against them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_finetune.data import ImageData
from lightning_finetune.data.block.masks import mask_finder
from lightning_finetune.errors import DataError
from tests.data.images import fill


def save_mask(path: Path, top: int = 2, size: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.arange(size[0] * size[1]).reshape(size) % (top + 1)).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/images/a.jpg", "train/masks/a.png"),
        ("images/train/a.jpg", "masks/train/a.png"),
        ("train/a.jpg", "masks/train/a.png"),
        ("images/a.jpg", "masks/a.png"),
        ("a.jpg", "masks/a.png"),
        ("train/scene/images/a.jpg", "train/scene/masks/a.tif"),
    ],
)
def test_masks_are_found_in_every_usual_place(tmp_path: Path, image: str, mask: str):
    expected = save_mask(tmp_path / mask)
    save_mask(tmp_path / "other/masks/a.png")
    assert mask_finder(tmp_path, "masks")(tmp_path / image) == expected


def test_a_mask_is_never_one_of_another_split(tmp_path: Path):
    save_mask(tmp_path / "valid/masks/a.png")
    assert not mask_finder(tmp_path, "masks")(tmp_path / "train/images/a.jpg").exists()


def test_no_folder_of_masks_at_all(tmp_path: Path):
    with pytest.raises(DataError, match="'masks'"):
        mask_finder(tmp_path, "masks")


def street(root: Path, count: int = 3) -> Path:
    for split in ("train", "valid"):
        for path in fill(root / split / "images", count):
            save_mask(root / split / "masks" / f"{path.stem}.png")
    return root


def test_codes_come_from_a_file_or_a_list(tmp_path: Path):
    street(tmp_path)
    with pytest.raises(DataError, match=r"codes\.txt"):
        ImageData.from_folder(tmp_path, masks="masks")
    (tmp_path / "codes.txt").write_bytes("road\r\ncar \r\n\r\nsky\r\n".encode("utf-8-sig"))  # by a Windows editor
    assert ImageData.from_folder(tmp_path, masks="masks").classes == ["road", "car", "sky"]
    assert ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"]).num_classes == 3


def test_every_mask_that_does_not_fit_is_named_before_training(tmp_path: Path):
    street(tmp_path)
    alien = save_mask(tmp_path / "train/masks/000.png", top=7)
    small = save_mask(tmp_path / "train/masks/001.png", size=(24, 32))
    broken = tmp_path / "valid/masks/002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"], num_workers=0)
    with pytest.raises(DataError, match="3 cannot be used") as caught:
        data.setup("fit")
    text = str(caught.value)
    assert f"{alien}: expected ids 0 to 2 (or 255, ignored), got [3, 4, 5, 6, 7]" in text
    assert f"{small}: expected 48 x 64 pixels" in text
    assert str(broken) in text


def test_masks_cannot_be_mixed(tmp_path: Path):
    street(tmp_path)
    with pytest.raises(DataError, match="mix"):
        ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"], mix="mixup")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}", "{}_mask"),
        ("{}", "mask_{}"),
        ("{}_sat", "{}_mask"),
        ("img_{}", "label_{}"),
        ("{}_leftImg8bit", "{}_gtFine_labelIds"),
        ("{}", "{}_L"),
    ],
)
def test_names_of_masks_may_differ_in_one_way(tmp_path: Path, caplog, image: str, mask: str):
    for number, path in enumerate(fill(tmp_path / "images", 12)):
        path.rename(path.with_stem(image.format(f"{number:03d}")))
        save_mask(tmp_path / "masks" / f"{mask.format(f'{number:03d}')}.png")
    data = ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"])
    for file, found in zip(data.items.files, data.targets, strict=True):
        number = "".join(letter for letter in file.stem if letter.isdigit())[:3]
        assert found.stem == mask.format(number)
    assert f"{image.format('NAME')} -> {mask.format('NAME')}" in caplog.text


def test_masks_of_several_names_are_not_guessed_among(tmp_path: Path):
    for path in fill(tmp_path / "images", 3):
        for kind in ("color", "ids"):
            save_mask(tmp_path / "masks" / f"{path.stem}_{kind}.png")
    with pytest.raises(DataError, match=r"NAME_color\n.*NAME_ids"):
        ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"])


def test_one_mask_that_is_missing_is_not_covered_by_another_name(tmp_path: Path):
    for path in fill(tmp_path / "images", 3)[:-1]:
        save_mask(tmp_path / "masks" / f"{path.stem}_mask.png")
    save_mask(tmp_path / "masks/other.png")
    with pytest.raises(DataError, match="are not there"):
        ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"])


def test_masks_beside_their_images_are_no_images(tmp_path: Path):
    for path in fill(tmp_path, 4):
        save_mask(path.with_name(f"{path.stem}_mask.png"))
    data = ImageData.from_folder(
        tmp_path, masks=lambda path: path.with_name(f"{path.stem}_mask.png"), codes=["a", "b", "c"]
    )
    assert len(data.items.files) == len(data.splits) == 4
    with pytest.raises(DataError, match="file of its own"):
        ImageData.from_folder(tmp_path, masks=lambda path: path, codes=["a", "b", "c"])


def test_a_folder_of_another_name_is_suggested(tmp_path: Path):
    fill(tmp_path / "images", 2)
    save_mask(tmp_path / "maskss/000.png")
    with pytest.raises(DataError, match="Did you mean 'maskss'"):
        ImageData.from_folder(tmp_path, masks="masks", codes=["a", "b", "c"])


@pytest.mark.parametrize("codes", [["a"], ["a", "b", "a"], ["a", "b", " a"]])
def test_codes_that_cannot_name_classes(tmp_path: Path, codes: list[str]):
    street(tmp_path)
    with pytest.raises(DataError, match="codes"):
        ImageData.from_folder(tmp_path, masks="masks", codes=codes)


@pytest.mark.parametrize("name", ["set/masks", "masks"])
def test_a_path_of_masks_may_begin_in_the_working_directory(tmp_path: Path, monkeypatch, name: str):
    for path in fill(tmp_path / "set" / "images", 4):
        save_mask(tmp_path / name / f"{path.stem}.png")
    monkeypatch.chdir(tmp_path)
    data = ImageData.from_folder("set/images", masks=name, codes=["road", "car", "sky"], size=32)
    assert data.items.labels.values[0] == tmp_path / name / "000.png"


def test_a_folder_of_masks_that_cannot_be_read_is_not_called_missing(tmp_path: Path):
    fill(tmp_path / "images", 2)
    (tmp_path / "masks").mkdir()
    np.savez(tmp_path / "masks" / "000.npz", np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"found none\. Its files have the endings .*npz"):
        ImageData.from_folder(tmp_path, masks="masks", codes=["road", "car"])
