"""The command takes a checkpoint that a script wrote: whose class it is stands in the checkpoint."""

from pathlib import Path

import pytest

from lightning_finetune.cli.command_line import run
from lightning_finetune.tasks import MultiLabelClassifier
from tests.tasks.photos import photo
from tests.tasks.subjects import SMALL, ready

QUIET = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]


@pytest.mark.parametrize("form", ["--ckpt_path={}", "--ckpt_path {}"])
def test_the_task_of_a_checkpoint_need_not_be_named(here: Path, trainer, form: str) -> None:
    for number, color in enumerate(["red", "green", "blue", "red"]):
        photo(color, number).save(here / f"{number}.jpg")
    rows = ["0.jpg,round red,False", "1.jpg,red,False", "2.jpg,round,True", "3.jpg,red,True"]
    (here / "labels.csv").write_text("\n".join(["image,tags,is_valid", *rows]))
    trainer = trainer()
    task = ready(MultiLabelClassifier("test_resnet", **{**SMALL, "num_classes": 2, "loss": "focal"}))
    task.classes, half = ["red", "round"], [0.5] * 3
    task.preprocessing = {**(task.preprocessing or {}), "size": [32, 32], "mean": half, "std": half}
    trainer.strategy.connect(task)
    trainer.save_checkpoint("best.ckpt")
    table = [
        "--data.class_path",
        "lightning_finetune.ImageData.from_csv",
        "--data.csv",
        "labels.csv",
        "--data.root",
        ".",
    ]
    options = ["--data.label_delim", " ", "--data.valid_col", "is_valid", "--data.size", "32", *QUIET]
    cli = run(["validate", *table, *options, *form.format("best.ckpt").split()])
    assert isinstance(cli.model, MultiLabelClassifier)
    assert "val_loss" in cli.trainer.callback_metrics
