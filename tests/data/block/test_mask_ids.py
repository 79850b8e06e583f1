"""Masks are looked at before they are believed: what their values mean, and what cannot be learned from them."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_finetune import ImageData
from lightning_finetune.errors import DataError
from tests.data.images import fill

SIZE = (48, 64)


def ids(*values: int) -> np.ndarray:
    """A mask of stripes of these values."""
    return np.resize(np.array(values), SIZE[0])[:, None].repeat(SIZE[1], 1)


def street(root: Path, masks: dict[str, np.ndarray | Image.Image], ending: str = "png", valid: int = 1) -> Path:
    """Images and their masks, the last of which validate."""
    for place, (name, mask) in enumerate(masks.items()):
        split = "train" if place < len(masks) - valid else "valid"
        (image,) = fill(root / split / "images", 1, start=place)
        image.rename(image.with_stem(name))
        (root / split / "masks").mkdir(exist_ok=True)
        saved = mask if isinstance(mask, Image.Image) else Image.fromarray(mask.astype(np.uint8))
        saved.save(root / split / f"masks/{name}.{ending}")
    return root


def numbered(*masks: np.ndarray | Image.Image) -> dict[str, np.ndarray | Image.Image]:
    return {f"m{place}": mask for place, mask in enumerate(masks)}


def made(root: Path, codes: list[str]) -> ImageData:
    return ImageData.from_folder(
        root, masks="masks", codes=codes, size=SIZE, num_workers=0, batch_size=1, augment="none"
    )


def seen(data: ImageData) -> set[int]:
    data.setup("fit")
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    return {value for batch in batches for value in data.augmented(batch)["mask"].unique().tolist()}


def refusal(data: ImageData) -> str:
    with pytest.raises(DataError) as caught:
        data.setup("fit")
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "codes", "said"),
    [
        ((0, 255), ["bg", "fg"], "255 is taken as 'fg'"),
        ((0, 128, 255), ["a", "b", "c"], "128 is taken as 'b'"),
        ((0, 85, 170, 255), ["a", "b", "c", "d"], "170 is taken as 'c'"),
        ((1, 2, 3), ["a", "b", "c"], "3 is taken as 'c'"),
        ((1, 3), ["a", "b", "c"], "1 is taken as 'a'"),
    ],
)
def test_values_that_can_be_nothing_but_classes_are_mapped_and_said(tmp_path, caplog, values, codes, said):
    data = made(street(tmp_path, numbered(ids(*values), ids(*values), ids(values[0]))), codes)
    assert seen(data) == {sorted(values).index(value) if len(values) == len(codes) else value - 1 for value in values}
    assert said in caplog.text
    assert data.summary().classes[codes[0]] == {"train": 2, "valid": 1}


def test_the_table_is_that_of_all_masks_whatever_is_asked_first(tmp_path):
    """Validation alone would not tell 0 and 255 from void."""
    root = street(tmp_path, numbered(ids(0, 255), ids(0, 255), ids(0)))
    data = made(root, ["bg", "fg"])
    data.setup("validate")
    assert data.train_dataloader().images.ids.tolist()[255] == 1
    assert made(root, ["bg", "fg"]).show_batch(1, "valid") is not None


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 1), (1, 255, 0)])
def test_ids_stay_and_255_is_void_beside_them(tmp_path, caplog, values):
    assert seen(made(street(tmp_path, numbered(ids(*values), ids(*values), ids(0, 1))), ["bg", "fg"])) == set(values)
    assert caplog.text == ""


def test_one_file_that_was_saved_otherwise_is_named(tmp_path, caplog):
    data = made(street(tmp_path, {"a": ids(0, 1), "odd": ids(0, 255), "c": ids(0, 1)}), ["bg", "fg"])
    assert "odd.png" in refusal(data)
    data.serve(task(ignore_index=255))
    data.setup("fit")
    assert "odd.png" in caplog.text


@pytest.mark.parametrize(
    ("masks", "codes", "options", "words"),
    [
        (numbered(*[ids(0)] * 3), ["bg", "fg"], {}, ["at least two classes, got ['bg']", "[0]"]),
        (numbered(*[ids(0, 255)] * 3), ["a", "b", "c"], {}, ["at least two classes", "Name each class (`codes`"]),
        (numbered(*[ids(0, 255)] * 3), ["bg", "fg"], {"ignore_index": 255}, ["leave ignore_index out"]),
        (numbered(*[ids(0, 1, 255)] * 3), ["bg", "fg"], {"ignore_index": None}, ["give the task ignore_index=255"]),
        (numbered(*[ids(0, 1, 2, 3)] * 3), ["a", "b", "c"], {}, ["3 cannot be used", "got [3]", "`codes` has 3 names"]),
        (numbered(*[ids(0, 10, 20)] * 3), ["a", "b", "c"], {}, ["got [10, 20]", "np.searchsorted([0, 10, 20], mask)"]),
        (numbered(*[ids(0, 10, 255)] * 3), ["a", "b", "c"], {}, ["got [10]", "`codes` has 3 names"]),
        (numbered(*[ids(*range(0, 200, 7))] * 3), ["bg", "fg"], {}, ["nearest neighbour"]),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_a_way_out(tmp_path, masks, codes, options, words):
    data = made(street(tmp_path, masks), codes)
    if options:
        data.serve(task(**options))
    text = refusal(data)
    assert all(word in text for word in words), text


def test_jpeg_masks_say_so(tmp_path):
    mask = np.random.default_rng(0).integers(0, 2, SIZE) * 255
    assert "save masks as PNG" in refusal(made(street(tmp_path, numbered(*[mask] * 3), ending="jpg"), ["bg", "fg"]))


def test_a_class_in_no_mask_is_warned_of_but_the_ignored_one_is_not(tmp_path, caplog):
    data = made(street(tmp_path, numbered(*[ids(0, 1, 3)] * 3)), ["a", "b", "rare", "void"])
    data.serve(task(ignore_index=3))
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    assert "No training mask shows ['rare']" in caplog.text


def test_an_id_that_the_task_ignores_needs_no_name(tmp_path):
    data = made(street(tmp_path, numbered(*[ids(0, 1, 3)] * 3)), ["a", "b"])
    data.serve(task(ignore_index=3))
    assert seen(data) == {0, 1, 3}


def task(**hparams) -> torch.nn.Module:
    from lightning import LightningModule

    module = LightningModule()
    module.save_hyperparameters(hparams)
    return module


def palette(mode: str) -> Image.Image:
    grey = Image.fromarray(ids(0, 1).astype(np.uint8))
    if mode == "P":
        grey = Image.fromarray(ids(0, 1).astype(np.uint8), "P")
        grey.putpalette([9, 9, 9, 200, 0, 0])
        return grey
    if mode == "1":
        return grey.point(lambda value: 255 * value).convert("1")
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(ids(0, 1).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["P", "1", "RGB", "RGBA", "LA", "I;16", "I", "F"])
def test_ids_are_read_from_whatever_holds_one_number_a_pixel(tmp_path, mode):
    ending = "tif" if mode in ("I", "F") else "png"
    assert seen(made(street(tmp_path, numbered(*[palette(mode)] * 3), ending), ["bg", "fg"])) == {0, 1}


def test_colours_are_told(tmp_path):
    colours = Image.fromarray(np.stack([128 * ids(0, 1), 0 * ids(0), 0 * ids(0)], -1).astype(np.uint8))
    text = refusal(made(street(tmp_path, numbered(*[colours] * 3)), ["bg", "fg"]))
    assert "(128, 0, 0)" in text
    assert "3 cannot be used" in text


@pytest.mark.parametrize(("low", "kept"), [(0, {0, 1}), (-1, {-1, 0, 1})])
def test_masks_of_a_dataset_keep_minus_one(low, kept):
    pairs = [(np.zeros((*SIZE, 3), np.uint8), ids(0, 1, low)) for _ in range(4)]
    assert seen(ImageData.from_dataset(pairs, size=SIZE, num_workers=0, augment="none")) == kept


@pytest.mark.parametrize(("value", "kind"), [(300, np.int64), (-2, np.int64), (0.5, np.float32)])
def test_masks_of_a_dataset_that_would_be_cut_are_refused(value, kind):
    mask = ids(0, 1).astype(kind)
    mask[0] = value
    with pytest.raises(DataError, match="class ids"):
        ImageData.from_dataset([(np.zeros((*SIZE, 3), np.uint8), mask)] * 4)


def test_masks_of_a_dataset_are_mapped_too(caplog):
    pairs = [(np.zeros((*SIZE, 3), np.uint8), ids(0, 255)) for _ in range(4)]
    data = ImageData.from_dataset(pairs, classes=["bg", "fg"], size=SIZE, num_workers=0, augment="none")
    assert seen(data) == {0, 1}
    assert "255 is taken as 'fg'" in caplog.text
    with pytest.raises(DataError, match="at least two classes"):
        ImageData.from_dataset(pairs).setup("fit")
