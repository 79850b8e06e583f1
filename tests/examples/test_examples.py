"""Each example on real images, made short by options of the command alone."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def fit(name: str, root: Path, folder: Path, phases: list[dict], *options: str) -> tuple[Path, list[dict[str, str]]]:
    """Run the file's command with shorter phases; the run's directory, and what each epoch measured."""
    config = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    given = config["fine_tune"]["phases"]
    assert len(phases) == len(given), "the phases of the example, made short"
    short = [{**phase, **change} for phase, change in zip(given, phases, strict=True)]
    (folder / "short.yaml").write_text(yaml.safe_dump({"fine_tune": {"phases": short}}))
    words = ["-m", "lightning_finetune", "fit", "--config", str(ROOT / f"examples/{name}.yaml")]
    words += ["--config", "short.yaml", "--data.root", str(root), "--trainer.accelerator", "cpu"]
    run([*words, "--data.num_workers", "0", *options], folder)
    version = folder / "lightning_logs/version_0"
    with (version / "metrics.csv").open() as file:
        return version, [row for row in csv.DictReader(file) if row["val_loss"]]


def test_pets(tmp_path: Path) -> None:
    """Ants and bees under names as the pets have them."""
    (tmp_path / "images").mkdir()
    for label in ("ants", "bees"):
        for number, path in enumerate(sorted((DATA / "ants_bees/train" / label).iterdir())[:50]):
            shutil.copy(path, tmp_path / "images" / f"some_{label}_{number}.jpg")
    phases = [{"epochs": 2}, {"epochs": 1}]
    version, epochs = fit("pets", tmp_path / "images", tmp_path, phases, "--data.size", "96", "--data.batch_size", "16")
    record = torch.load(version / "checkpoints/best.ckpt", weights_only=True)["lightning_finetune"]
    assert record["classes"] == ["some_ants", "some_bees"]
    assert float(epochs[-1]["val_error_rate"]) < 0.35
    assert (version / "lr_range_phase_2.png").is_file()


def test_satellite(tmp_path: Path) -> None:
    with (DATA / "satellite/labels.csv").open() as file:
        rows = list(csv.DictReader(file))[::6]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to((DATA / "satellite/images").resolve())
    with (tmp_path / "data/labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    sizes = [{"epochs": 1, "size": size} for size in (64, 64, 96, 96)]
    options = ("--data.size", "96", "--data.batch_size", "16")
    version, epochs = fit("satellite", tmp_path / "data", tmp_path, sizes, *options)
    assert float(epochs[-1]["val_f2"]) > float(epochs[0]["val_f2"])
    assert float(epochs[-1]["val_f2"]) > 0.5
    with (version / "plan.csv").open() as file:
        assert [row["size"] for row in csv.DictReader(file)] == ["64 px", "64 px", "96 px", "96 px"]


def test_camvid(tmp_path: Path) -> None:
    sizes = [{"epochs": 1, "size": size} for size in ([64, 96], [64, 96], [96, 128], [96, 128])]
    options = ("--data.size", "[96,128]", "--data.batch_size", "8")
    version, epochs = fit("camvid", DATA / "camvid", tmp_path, sizes, *options)
    assert float(epochs[-1]["val_pixel_accuracy"]) > 0.75
    words = ["-m", "lightning_finetune", "interpret", "--config", str(version / "config.yaml")]
    best = str(version / "checkpoints/best.ckpt")
    run([*words, "--ckpt_path", best, "--out", "why"], tmp_path)
    with (tmp_path / "why/report.csv").open() as file:
        report = {row["class"]: row for row in csv.DictReader(file)}
    assert float(report["Road"]["iou"]) > 0.5
    assert float(report["Void"]["support"]) == 0, "pixels of no class do not count"
    images = str(DATA / "camvid/val/images")
    run(["-m", "lightning_finetune", "predict", "--ckpt_path", best, "--images", images, "--out", "said"], tmp_path)
    assert len(list((tmp_path / "said/overlays").glob("*.png"))) == len(list((DATA / "camvid/val/images").iterdir()))


def test_bring_your_own(tmp_path: Path) -> None:
    said = run([str(ROOT / "examples/bring_your_own.py"), str((DATA / "ants_bees").resolve())], tmp_path)
    assert "Phases and their results" in said
    assert "val_accuracy" in said
