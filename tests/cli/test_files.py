"""What the command writes about files that nobody labelled."""

import csv
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_finetune import load
from lightning_finetune.cli import front
from lightning_finetune.cli.files import Devices, predict_files
from lightning_finetune.cli.prediction_files import Writer
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.tasks import ImageClassifier, MultiLabelClassifier, UNetSegmenter
from tests import forking
from tests.cli.launching import QUIET, TWO, rows
from tests.tasks.photos import photo
from tests.tasks.subjects import SMALL, ready


@pytest.fixture
def checkpoint(trainer, tmp_path):
    """Writes a checkpoint of a task."""

    def save(task) -> Path:
        run = trainer()
        run.strategy.connect(ready(task))
        run.save_checkpoint(tmp_path / "best.ckpt")
        return tmp_path / "best.ckpt"

    return save


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Files of many kinds in two folders, one of which is broken."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    photo("red", 1).resize((90, 71)).save(folder / "a.jpg")
    photo("blue", 2).convert("L").save(folder / "a.png")
    photo("blue", 3).convert("CMYK").save(folder / "deep" / "b.jpg")
    photo("red", 4).convert("RGBA").save(folder / "deep" / "a.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("cls", [ImageClassifier, MultiLabelClassifier])
def test_a_table_of_probabilities_without_what_is_broken(checkpoint, images, tmp_path, cls, capsys):
    path = checkpoint(cls("test_resnet", **SMALL))
    predict_files(str(path), str(images), str(tmp_path / "out"), batch_size=2)
    said = rows(tmp_path / "out/predictions.csv")
    assert [row["file"] for row in said] == ["a.jpg", "a.png", "deep/a.png", "deep/b.jpg"]
    for row in said:
        found = load(path).predict(images / row["file"])
        assert row["prediction"] == (found.label if cls is ImageClassifier else ";".join(found.labels))
        given = [float(row[f"p({name})"]) for name in ("ant", "bee", "wasp")]
        assert given == pytest.approx([found.probabilities[name] for name in ("ant", "bee", "wasp")], abs=1e-5)
    assert "broken.jpg" in (tmp_path / "out" / "unreadable.txt").read_text()
    assert "4 of 5 images are predicted" in capsys.readouterr().out


def test_masks_at_the_size_of_the_images_and_none_overwritten(checkpoint, images, tmp_path):
    path = checkpoint(UNetSegmenter("unet", backbone="test_resnet", **SMALL))
    predict_files(str(path), str(images), str(tmp_path / "out"))
    masks = sorted(file.relative_to(tmp_path / "out/masks") for file in (tmp_path / "out/masks").rglob("*.png"))
    assert masks == [Path("a.jpg.png"), Path("a.png.png"), Path("deep/a.png"), Path("deep/b.png")]
    mask, layer = (Image.open(tmp_path / "out" / kind / "a.jpg.png") for kind in ("masks", "overlays"))
    assert (mask.mode, mask.size, layer.size) == ("P", (90, 71), (90, 71))
    assert (np.asarray(mask) == load(path).predict(images / "a.jpg").mask).all()


def test_the_command_predicts_files(checkpoint, images, tmp_path, monkeypatch):
    path = checkpoint(ImageClassifier("test_resnet", **SMALL))
    arguments = ["predict", "--ckpt_path", path, "--images", images / "a.jpg", "--out", tmp_path / "one"]
    monkeypatch.setattr("sys.argv", ["lightning-finetune", *map(str, arguments)])
    front.main()
    assert (tmp_path / "one" / "predictions.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("cls", [ImageClassifier, pytest.param(UNetSegmenter, marks=pytest.mark.slow)])
def test_two_processes_of_the_command_write_what_one_writes(checkpoint, images, tmp_path, cls):
    segments = cls is UNetSegmenter
    task = cls("unet", backbone="test_resnet", **SMALL) if segments else cls("test_resnet", **SMALL)
    path = str(checkpoint(task))
    for copy in range(70):  # more than a chunk of either; with the others an odd number that can be read
        photo("red", copy).save(images / "deep" / f"more{copy}.jpg")
    (images / "a.jpg").unlink()
    (images / "deep/broken.jpg").write_bytes(b"no image")
    one, two = tmp_path / "one", tmp_path / "two"
    predict_files(path, str(images), str(one), batch_size=4)
    words = ["predict", "--ckpt_path", path, "--images", images, "--out", two, "--batch_size", 4, *TWO[:2], *QUIET[:2]]
    done = forking.run("-m", "lightning_finetune", *words)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert [said.count(words) for words in ("73 of 75 images are predicted", "2 cannot be read")] == [1, 1]
    names = sorted(file.relative_to(one) for file in one.rglob("*"))
    assert sorted(file.relative_to(two) for file in two.rglob("*")) == names  # no table of a share is left
    assert (two / "unreadable.txt").read_text() == (one / "unreadable.txt").read_text()
    if segments:
        same = [
            np.mean(np.asarray(Image.open(one / name)) == np.asarray(Image.open(two / name)))
            for name in names
            if name.suffix == ".png"
        ]
        assert len(same) == 2 * 73
        assert min(same) > 0.999  # a pixel between two classes may fall to either
    else:
        ours, theirs = ([*csv.reader((out / "predictions.csv").open())] for out in (one, two))
        assert [row[:2] for row in theirs] == [row[:2] for row in ours]
        assert len(ours) == 74
        for row, other in zip(ours[1:], theirs[1:], strict=True):
            assert [*map(float, other[2:])] == pytest.approx([*map(float, row[2:])], abs=2e-6)  # six digits are written


def test_a_process_that_fails_leaves_no_table_of_its_share(checkpoint, images, tmp_path):
    """Which else would be taken for that of another run, as it is while it is written."""
    of_rank_1 = (tmp_path, images, load(checkpoint(ImageClassifier("test_resnet", **SMALL))), [], False, 1, 2)
    with suppress(RuntimeError), Writer(*of_rank_1):
        assert (tmp_path / "predictions.1-of-2.csv").is_file()
        with pytest.raises(FinetuneError, match="there are results already"):
            Writer(*of_rank_1).__enter__()
        raise RuntimeError
    assert not [*tmp_path.glob("*.csv")]


def test_a_device_that_is_not_there_is_said(checkpoint, images, tmp_path):
    path = checkpoint(ImageClassifier("test_resnet", **SMALL))
    with pytest.raises(FinetuneError, match="--trainer: "):
        predict_files(str(path), str(images), str(tmp_path / "out"), trainer=Devices("gpu", 2))


def test_a_folder_that_is_not_there_is_named(checkpoint, tmp_path):
    path = checkpoint(ImageClassifier("test_resnet", **SMALL))
    with pytest.raises(DataError, match=r"--images.*nowhere"):
        predict_files(str(path), "nowhere", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cls", [ImageClassifier, UNetSegmenter])
def test_predictions_of_another_run_are_replaced_only_when_asked(checkpoint, images, tmp_path, cls):
    segments = cls is UNetSegmenter
    task = cls("unet", backbone="test_resnet", **SMALL) if segments else cls("test_resnet", **SMALL)
    path, out = str(checkpoint(task)), tmp_path / "out"
    predict_files(path, str(images / "a.jpg"), str(out))
    before = sorted(out.rglob("*"))
    with pytest.raises(FinetuneError, match=r"there are results already.*--overwrite"):
        predict_files(path, str(images), str(out))
    assert sorted(out.rglob("*")) == before
    predict_files(path, str(images), str(out), overwrite=True)
    if segments:  # a.jpg alone is a.png, beside the other it keeps its ending
        assert len(list((out / "masks").rglob("*.png"))) == 1 + 4
    else:
        assert (out / "predictions.csv").read_text().count("\n") == 1 + 4


def test_of_two_predictions_at_once_one_writes(checkpoint, images, tmp_path, monkeypatch):
    """The second begins after the first has looked into the folder."""
    path, out = str(checkpoint(ImageClassifier("test_resnet", **SMALL))), tmp_path / "out"
    task = ImageClassifier("test_resnet", **SMALL)
    each = type(task).predict_each

    def late(*args, **options):
        monkeypatch.setattr(ImageClassifier, "predict_each", each)
        predict_files(path, str(images), str(out))
        return each(*args, **options)

    monkeypatch.setattr(ImageClassifier, "predict_each", late)
    with pytest.raises(FinetuneError, match="there are results already"):
        predict_files(path, str(images / "a.jpg"), str(out))
    assert (out / "predictions.csv").read_text().count("\n") == 5


def test_a_file_in_place_of_the_folder_is_named(checkpoint, images, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FinetuneError, match="expected a folder to write to, got a file"):
        predict_files(str(checkpoint(ImageClassifier("test_resnet", **SMALL))), str(images), str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"
