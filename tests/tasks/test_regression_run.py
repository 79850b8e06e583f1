"""Numbers through the whole package: table, training by the command, pictures, tables of predictions, exported file."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import r2_score

from lightning_finetune import ImageData, ImageRegressor, load
from lightning_finetune.after.export import export
from lightning_finetune.after.interpretation import interpret
from lightning_finetune.cli import front

PHOTOS = 48


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder where the command has learned how much red and blue is in photos."""
    root = tmp_path_factory.mktemp("numbers")
    draw = np.random.default_rng(0)
    (root / "photos").mkdir()
    with (root / "labels.csv").open("w") as file:
        file.write("file;red;blue;is_valid\n")
        for k in range(PHOTOS):
            red, blue = draw.integers(20, 230, 2)
            pixels = np.full((40, 40, 3), (red, 100, blue)) + draw.integers(-20, 20, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "photos" / f"{k}.png")
            file.write(f"photos/{k}.png;{red / 2.55:.1f};{blue / 255:.3f};{int(k % 4 == 0)}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        data = (
            "--data lightning_finetune.ImageData.from_csv --data.root . --data.numbers [red,blue] --data.augment none"
        )
        model = "--model ImageRegressor --model.model test_convnext --model.weights false"
        rest = "--data.valid_col is_valid --data.size 32 --data.num_workers 0 --trainer.accelerator cpu"
        words = f"lightning-finetune fit {model} {data} {rest} --fine_tune.epochs 6"
        patch.setattr("sys.argv", words.split())
        front.main()
        words = "lightning-finetune predict --images photos --out said --ckpt_path"
        patch.setattr("sys.argv", [*words.split(), "lightning_logs/version_0/checkpoints/best.ckpt"])
        front.main()
    return root


@pytest.fixture
def task(run) -> ImageRegressor:
    return load(run / "lightning_logs/version_0/checkpoints/best.ckpt")


@pytest.fixture
def numbers(run) -> ImageData:
    return ImageData.from_csv(run, numbers=["red", "blue"], valid_col="is_valid", size=32, num_workers=0)


def test_the_command_learns_and_shows_the_run(run):
    folder = run / "lightning_logs/version_0"
    last = pd.read_csv(folder / "metrics.csv")["val_r2"].dropna().iloc[-1]
    assert last > 0.5
    for name in ("predictions.png", "run.png"):
        assert Image.open(folder / name).size > (100, 100)
    page = (folder / "report.html").read_text()
    assert "red " in page
    assert "val_mae" in page


def test_the_table_of_predictions_has_the_units_of_the_targets(run, task):
    rows = list(csv.DictReader((run / "said/predictions.csv").open()))
    assert [*rows[0]] == ["file", "red", "blue"]
    assert len(rows) == PHOTOS
    said = task.predict(run / "photos" / rows[5]["file"]).numbers
    assert [float(rows[5][name]) for name in ("red", "blue")] == pytest.approx(list(said.values()), rel=1e-4)
    assert 5 < np.mean([float(row["red"]) for row in rows]) < 95


def test_an_interpretation_reports_each_number(task, numbers, tmp_path):
    seen = interpret(task, numbers)
    report, items = seen.report(), seen.items
    assert list(report.index) == ["red", "blue"]
    for name in ("red", "blue"):
        assert report.loc[name, "r2"] == pytest.approx(r2_score(items[f"truth_{name}"], items[f"prediction_{name}"]))
    loss = ((items["error_red"] / task.scale[0].item()) ** 2 + (items["error_blue"] / task.scale[1].item()) ** 2) / 2
    assert items["loss"].tolist() == pytest.approx(loss.tolist(), rel=1e-3)
    figure = seen.plot_top_losses(2)
    titles = [axes.get_title() for axes in figure.axes]
    assert figure.get_suptitle().startswith("Top losses of best.ckpt, after epoch ")
    assert all("is red" in title and "loss" in title for title in titles)
    seen.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"losses.csv", "report.csv", "top_losses.png"}


def test_an_exported_file_gives_the_numbers(run, task, tmp_path):
    export(task, tmp_path / "numbers.pt2")
    pixels = (
        torch.from_numpy(np.asarray(Image.open(run / "photos/3.png").resize((32, 32)))).permute(2, 0, 1)[None] / 255
    )
    (said,) = torch.export.load(tmp_path / "numbers.pt2").module()(pixels).tolist()
    assert said == pytest.approx(
        list(task.predict(Image.open(run / "photos/3.png").resize((32, 32))).numbers.values()), rel=1e-3
    )
    assert json.loads((tmp_path / "numbers.json").read_text())["classes"] == ["red", "blue"]
