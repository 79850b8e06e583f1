"""Data that is described by functions, in the YAML of the command."""

import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lightning_finetune.cli import command_line
from lightning_finetune.data.block.splits import Split
from lightning_finetune.errors import DataError
from tests import forking

FUNCTIONS = """
from pathlib import Path
from lightning_finetune import ImageData, ImageItems

def mask(path: Path) -> Path:
    return path.parents[1] / "truth" / f"{path.stem}.png"

def label(name: str) -> str:
    return "ant" if int(Path(name).stem) % 2 else "bee"

def block(root: str) -> ImageData:
    items = ImageItems.from_folder(root).split_by_func(lambda path: "valid" in path.parts)
    return items.label_from_func(lambda path: path.parent.name).datamodule(size=64, batch_size=4, num_workers=0)
"""


@pytest.fixture
def data_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The data module that the command makes of a description."""
    (tmp_path / "my_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-finetune"])

    def make(class_path: str, model: str = "ImageClassifier", **arguments):
        described = {"class_path": class_path, "init_args": {name: str(value) for name, value in arguments.items()}}
        config = {"data": described, "model": {"class_path": model, "init_args": {"weights": False}}}
        Path("config.yaml").write_text(yaml.safe_dump(config))
        options = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
        return command_line.run(["fit", "--config", "config.yaml", *options]).datamodule

    yield make
    sys.modules.pop("my_functions", None)


def test_a_data_block_of_ones_own(data_of, insects: Path):
    data = data_of("my_functions.block", root=insects)
    assert data.classes == ["ant", "bee", "wasp"]
    assert (len(data.dataset(Split.TRAIN)), len(data.dataset(Split.VALID))) == (19, 11)


def test_the_console_script_finds_functions_in_the_working_directory(insects: Path, tmp_path: Path):
    (tmp_path / "my_functions.py").write_text(FUNCTIONS)
    words = ["plan", "--data", "lightning_finetune.ImageData.from_name_func", "--data.root", str(insects)]
    words += ["--data.func", "my_functions.label", "--model.weights", "false", "--trainer.accelerator", "cpu"]
    script = Path(sys.executable).with_name("lightning-finetune")
    done = forking.run(script, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Plan of the run" in done.stdout


def test_masks_that_are_neither_a_folder_nor_a_function_say_why(data_of, tmp_path: Path):
    with pytest.raises(DataError, match=r"dotted name of a function, got 'my_functions.mist'.* no attribute 'mist'"):
        data_of("lightning_finetune.ImageData.from_folder", "UNetSegmenter", root=tmp_path, masks="my_functions.mist")


@pytest.mark.parametrize("masks", ["my_functions.mask", "truth"])
def test_masks_by_a_function_or_by_a_folder(data_of, tmp_path: Path, masks: str):
    for split in ("train", "valid"):
        for kind, suffix, mode in (("images", "jpg", "RGB"), ("truth", "png", "L")):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(2):
                picture = Image.new(mode, (96, 96), 1 if mode == "L" else (200, 0, 0))
                if mode == "L":
                    picture.paste(0, (0, 0, 96, 48))
                picture.save(tmp_path / split / kind / f"{number}.{suffix}")
    (tmp_path / "codes.txt").write_text("ground\nroof\n")
    data = data_of(
        "lightning_finetune.ImageData.from_folder",
        "UNetSegmenter",
        root=tmp_path,
        masks=masks,
        codes=tmp_path / "codes.txt",
        batch_size=2,
        size=64,
        num_workers=0,
    )
    assert next(iter(data.val_dataloader()))["mask"].unique().tolist() == [0, 1]
    assert data.classes == ["ground", "roof"]
