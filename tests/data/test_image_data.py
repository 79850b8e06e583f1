"""Every short way to a data module, on real folders and tables."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_finetune.data import Augment, ImageData
from lightning_finetune.data.block.splits import Split
from lightning_finetune.data.pixels.mix import CutMix
from lightning_finetune.errors import DataError
from tests.data.images import CLASSES, fill, picture


def sizes(data: ImageData) -> list[int]:
    return [len(data.dataset(split)) for split in (Split.TRAIN, Split.VALID, Split.TEST)]


def flat(insects: Path, folder: Path) -> list[Path]:
    """All insects in one folder, named CLASS_NUMBER.jpg."""
    folder.mkdir()
    for file in sorted(insects.rglob("*.jpg")):
        shutil.copy(file, folder / f"{file.parent.name}_{file.name}")
    return sorted(folder.iterdir())


def _two(folder: Path) -> None:
    fill(folder / "ant", 1), fill(folder / "bee", 1)


def table(files: list[Path], **columns: list) -> pd.DataFrame:
    names = [file.name for file in files]
    return pd.DataFrame({"image": names, "label": [name.split("_")[0] for name in names], **columns})


def test_train_and_valid_folders(insects: Path):
    data = ImageData.from_folder(insects)
    assert (data.classes, data.num_classes, data.kind) == (list(CLASSES), 3, "single")
    assert sizes(data) == [19, 11, 0]
    assert data.size == data.train_size == (224, 224)


def test_val_is_found_and_test_images_are_tested(insects: Path, tmp_path: Path):
    root = tmp_path / "data"
    shutil.copytree(insects, root)
    (root / "valid").rename(root / "val")
    fill(root / "test/bee", 2)
    data = ImageData.from_folder(root, num_workers=0, size=16)
    assert sizes(data) == [19, 11, 2]
    assert [batch["label"].tolist() for batch in data.test_dataloader()] == [[1, 1]]
    assert [len(batch["label"]) for batch in data.predict_dataloader()] == [2]


def test_class_folders_alone_are_split_and_the_log_says_so(insects: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        data = ImageData.from_folder(insects / "train")
    assert sizes(data) == [16, 3, 0]
    assert "a random fifth" in caplog.text


def test_a_part_of_all_images_validates_but_none_of_the_test_folder(insects: Path, tmp_path: Path):
    shutil.copytree(insects, tmp_path / "data")
    fill(tmp_path / "data/test/ant", 4)
    first, again, other = (ImageData.from_folder(tmp_path / "data", valid_pct=0.5, seed=s) for s in (1, 1, 2))
    assert sizes(first) == [15, 15, 4]
    assert np.array_equal(first.splits, again.splits)
    assert not np.array_equal(first.splits, other.splits)


def test_a_table_with_every_column(insects: Path, tmp_path: Path):
    files = flat(insects, tmp_path / "images")
    rows = table(files, is_valid=[k % 3 == 0 for k in range(30)])
    rows.to_csv(tmp_path / "labels.csv", index=False)
    data = ImageData.from_csv(tmp_path, folder="images", valid_col="is_valid", size=32)
    assert (data.classes, sizes(data), data.size) == (list(CLASSES), [20, 10, 0], (32, 32))
    assert sizes(ImageData.from_csv(tmp_path, folder="images", valid_pct=0.5)) == [15, 15, 0]


def test_names_and_labels_of_a_table_stay_text(tmp_path: Path):
    fill(tmp_path, 8)
    rows = ["image,label", *(f"{k:03d},{['NA', '007'][k % 2]}" for k in range(8))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = ImageData.from_csv(tmp_path, suffix=".jpg")
    assert set(data.items.labels.values) == {"NA", "007"}


def test_several_labels_of_a_table(insects: Path, tmp_path: Path):
    files = flat(insects, tmp_path / "images")
    rows = table(files, tags=["red", "red big", ""] * 10)
    data = ImageData.from_df(rows, tmp_path, label_col="tags", label_delim=" ", folder="images", num_workers=0)
    assert (data.kind, data.classes) == ("multi", ["big", "red"])
    batch = next(iter(data.val_dataloader()))
    assert (batch["label"].dtype, tuple(batch["label"].shape)) == (torch.float32, (6, 2))


def test_lists_functions_patterns(insects: Path, tmp_path: Path):
    files = flat(insects, tmp_path / "images")
    labels = [file.name.split("_")[0] for file in files]
    ways = [
        ImageData.from_lists(files, labels),
        ImageData.from_name_func(tmp_path / "images", lambda name: name.split("_")[0]),
        ImageData.from_name_re(tmp_path / "images", r"^(.*)_\d+\.jpg$"),
    ]
    for data in ways:
        assert data.classes == list(CLASSES)
        assert np.array_equal(data.targets, ways[0].targets)
        assert np.array_equal(data.splits, ways[0].splits)


@pytest.mark.parametrize("transform", [None, v2.Compose([v2.PILToTensor()])])
def test_anybodys_dataset(insects: Path, transform):
    train, valid = (ImageFolder(insects / split, transform) for split in ("train", "valid"))
    data = ImageData.from_dataset(train, valid, size=32, batch_size=4, num_workers=2)
    assert (data.classes, sizes(data)) == (list(CLASSES), [19, 11, 0])
    ours = ImageData.from_folder(insects, size=32, batch_size=4, num_workers=0)
    data.setup("fit")
    for got, expected in zip(data.val_dataloader(), ours.val_dataloader(), strict=True):
        assert torch.equal(got["label"], expected["label"])
        assert (got["image"].float() - expected["image"].float()).abs().max() <= 24  # not decoded at reduced scale
    data.teardown("fit")


def test_datasets_with_vectors_and_with_masks():
    images = [picture(k, (32, 32)) for k in range(6)]
    vectors = ImageData.from_dataset([(image, torch.tensor([1, 0, k % 2])) for k, image in enumerate(images)])
    assert (vectors.kind, vectors.classes) == ("multi", ["0", "1", "2"])
    masks = [np.full((32, 32), k % 3) for k in range(6)]
    masked = ImageData.from_dataset(
        list(zip(images, masks, strict=True)), classes=["a", "b", "c"], size=16, num_workers=0
    )
    assert next(iter(masked.val_dataloader()))["mask"].shape == (1, 16, 16)
    numbered = ImageData.from_dataset([(image, 2 * k) for k, image in enumerate(images)], valid_pct=0.01)
    assert numbered.targets.tolist() == [0, 2, 4, 6, 8, 10]  # class numbers stay what they are
    with pytest.raises(DataError, match="class numbers"):
        ImageData.from_dataset([(image, "a") for image in images])


def test_camvid(shared):
    data = ImageData.from_folder(
        shared("camvid"), valid="val", masks="masks", size=(180, 240), num_workers=0, batch_size=4
    )
    assert (data.kind, data.num_classes, data.classes[11]) == ("mask", 12, "Void")
    assert sizes(data) == [367, 101, 0]
    whole = ImageData.from_folder(
        shared("camvid"), valid="val", masks="masks", size=(360, 480), num_workers=0, batch_size=4
    )
    batch = next(iter(whole.val_dataloader()))
    ready = whole.on_after_batch_transfer(batch, 0)
    for mask, item in zip(ready["mask"], batch["index"], strict=True):
        row = np.flatnonzero(whole.splits == Split.VALID)[item]
        assert np.array_equal(mask.numpy(), np.asarray(Image.open(whole.targets[row])))
    train = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert train["mask"].dtype == torch.int64
    assert set(train["mask"].unique().tolist()) <= set(range(12))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("", "header"),
        ("image,label\n../secret.jpg,a\n000.jpg,b", r"lead out of it:\s+\.\./secret\.jpg"),
        ("image,label\n404.jpg,a\n000.jpg,b", "404.jpg"),
        ("image,kind\n000.jpg,a\n001.jpg,b", r"column 'label', got \['image', 'kind'\]"),
        ("image,label\n000.jpg,\n001.jpg,b", "label for each item"),
        ("image,label\n000.jpg,a\n001.jpg,a", "at least 2 classes"),
        ('image,label\n"000.jpg,a', "commas"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path: Path, rows: str, reason: str):
    fill(tmp_path, 2)
    (tmp_path.parent / "secret.jpg").touch()
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(DataError, match=reason):
        ImageData.from_csv(tmp_path, label_col="label")


def test_a_table_in_another_encoding_says_so(tmp_path: Path):
    (tmp_path / "labels.csv").write_bytes("image,label\nabeille_é.jpg,é".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        ImageData.from_csv(tmp_path)


def test_file_names_that_are_not_utf8_are_read_and_named(insects: Path, tmp_path: Path):
    shutil.copytree(insects, tmp_path / "data")
    name = os.fsdecode(os.fsencode(tmp_path / "data/train/ant/") + b"/\xff\xfe.jpg")
    Path(name).write_bytes(b"broken")
    data = ImageData.from_folder(tmp_path / "data", num_workers=0)
    with pytest.raises(DataError) as caught:
        data.setup("fit")
    assert ".jpg" in str(caught.value)
    str(caught.value).encode("utf-8")  # it can be printed


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda root: None, "expected images"),
        (lambda root: fill(root / "train/ant", 2), "none for valid"),
        (lambda root: [fill(root / "train/ant", 2), fill(root / "valid/ant", 2)], "at least 2 classes"),
        (lambda root: [*map(_two, (root / "train", root / "valid")), (root / "train/hornet").mkdir()], "train/hornet"),
        (lambda root: [fill(root / f"{s}/{c}", 1) for s, c in [("train", "a"), ("train", "b"), ("valid", "c")]], "c"),
    ],
)
def test_folders_that_cannot_be_trained_on_say_why(tmp_path: Path, build, reason: str):
    build(tmp_path)
    with pytest.raises(DataError, match=reason):
        ImageData.from_folder(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="absent"):
        ImageData.from_folder(tmp_path / "absent")


def test_litter_and_hidden_files_are_passed_over_and_texts_are_told(insects: Path, tmp_path: Path, caplog):
    shutil.copytree(insects, tmp_path / "data")
    for name in (".DS_Store", "Thumbs.db", "._000.jpg", "notes.txt"):
        (tmp_path / "data/train/ant" / name).write_text("x")
    (tmp_path / "data/labels.csv").write_text("beside the images, not among them")
    data = ImageData.from_folder(tmp_path / "data")
    assert sizes(data) == [19, 11, 0]
    assert "labels.csv" not in caplog.text
    assert "notes.txt" in caplog.text
    assert "Thumbs" not in caplog.text


def parsed(tmp_path: Path, config: dict) -> ImageData:
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    (tmp_path / "config.json").write_text(json.dumps({"data": config}))
    return parser.instantiate_classes(parser.parse_args([f"--data={json.dumps(config)}"])).data


def test_every_way_can_be_written_in_a_configuration(insects: Path, tmp_path: Path):
    name = "lightning_finetune.data.ImageData.from_folder"
    augment = {"class_path": "lightning_finetune.data.Augment", "init_args": {"max_rotate": 5}}
    options = {"root": str(insects), "size": [32, 48], "augment": augment}
    data = parsed(tmp_path, {"class_path": name, "init_args": options})
    assert (data.size, data.augment) == ((32, 48), Augment(max_rotate=5))
    flat(insects, tmp_path / "images")
    mix = {"class_path": "lightning_finetune.data.pixels.mix.CutMix", "init_args": {"alpha": 2.0}}
    options = {"root": str(tmp_path / "images"), "pattern": "^(.*)_", "batch_size": 3, "mix": mix}
    data = parsed(tmp_path, {"class_path": "lightning_finetune.data.ImageData.from_name_re", "init_args": options})
    assert isinstance(data.mix, CutMix)
    assert (data.mix.alpha, data.batch_size, data.classes) == (2.0, 3, list(CLASSES))


class Mistaken(torch.utils.data.Dataset):
    """Somebody's data set with a mistake that shows in worker processes alone."""

    def __len__(self):
        return 8

    def __getitem__(self, place):
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError("my mistake")
        return Image.new("RGB", (32, 32), (place, 0, 0)), place % 2


def test_an_error_in_somebodys_data_set_is_not_taken_for_a_killed_worker():
    data = ImageData.from_dataset(Mistaken(), size=32, batch_size=4, num_workers=1)
    data.setup("fit")
    with pytest.raises(RuntimeError, match="my mistake"):
        next(iter(data.train_dataloader()))
    data.teardown("fit")
