"""Each example on real images, made short by options of the command alone."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def script(name: str):
    """A file of the examples as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shorten(name: str, folder: Path, phases: list[dict]) -> None:
    """Write ``short.yaml``, the phases of a recipe with these changes."""
    given = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())["fine_tune"]["phases"]
    assert len(phases) == len(given), "the phases of the example, made short"
    short = [{**phase, **change} for phase, change in zip(given, phases, strict=True)]
    (folder / "short.yaml").write_text(yaml.safe_dump({"fine_tune": {"phases": short}}))


def measured(version: Path) -> list[dict[str, str]]:
    """What each epoch of a run measured."""
    with (version / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["val_loss"]]


def fit(name: str, root: Path, folder: Path, phases: list[dict], *options: str) -> tuple[Path, list[dict[str, str]]]:
    """Run the file's command with shorter phases; the run's directory, and what each epoch measured."""
    shorten(name, folder, phases)
    words = ["-m", "lightning_finetune", "fit", "--config", str(ROOT / f"examples/{name}.yaml")]
    words += ["--config", "short.yaml", "--data.root", str(root), "--trainer.accelerator", "cpu"]
    run([*words, "--data.num_workers", "0", *options], folder)
    version = folder / "lightning_logs/version_0"
    return version, measured(version)


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
    assert "FineTune takes the place of ReduceLROnPlateau" in said


def test_digits_by_the_recipe_of_the_demo(tmp_path: Path, monkeypatch, capfd) -> None:
    demo = script("demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "TRAIN", 40)
    monkeypatch.setattr(demo, "VALID", 10)
    demo.main()
    assert "digits.yaml" in capfd.readouterr().out
    (version,) = tmp_path.glob("demo/lightning_logs/version_*")
    saved = yaml.safe_load((version / "config.yaml").read_text())
    recipe = yaml.safe_load((ROOT / "examples/digits.yaml").read_text())
    assert {name: saved["fine_tune"][name] for name in recipe["fine_tune"]} == recipe["fine_tune"]
    assert float(measured(version)[-1]["val_error_rate"]) < 0.5
    assert (version / "predictions.png").is_file()


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """What torchvision leaves in ``data`` after the download, oddities too, with photos of ants and bees."""
    root = tmp_path / "data/oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    (root / "annotations/trimaps").mkdir(parents=True)
    lines = []
    for number, (label, breed) in enumerate((("ants", "Abyssinian"), ("bees", "great_pyrenees")), start=1):
        for place, path in enumerate(sorted((DATA / "ants_bees/train" / label).iterdir())[:24]):
            name = f"{breed}_{place}"
            with Image.open(path) as photo:
                photo.thumbnail((160, 160))
                trimap = trimap_of(photo.size)
                photo.paste("white", mask=trimap.point([0, 255] + [0] * 254))  # a pet that is quickly learnt
                kind = "GIF" if place == 5 else "JPEG"  # some files of the set are GIFs
                photo.save(root / f"images/{name}.jpg", kind)
                trimap.save(root / f"annotations/trimaps/{name}.png")
            (root / f"annotations/trimaps/._{name}.png").write_bytes(b"\0\5\x16\7")  # of a Mac
            lines.append(f"{name} {number} {number} 1")
    (root / "images/Abyssinian_100.mat").write_bytes(b"MATLAB 5.0")
    for split in ("trainval", "test"):
        (root / f"annotations/{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def trimap_of(size: tuple[int, int]) -> Image.Image:
    """Background (2), and in the middle a pet (1) with its border (3)."""
    width, height = size
    trimap = Image.new("L", size, 2)
    trimap.paste(3, (width // 4 - 4, height // 4 - 4, width * 3 // 4 + 4, height * 3 // 4 + 4))
    trimap.paste(1, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    return trimap


def test_oxford_pets_by_breed(pets: Path) -> None:
    shorten("pets", pets, [{"epochs": 2}, {"epochs": 1, "lr": [1e-5, 3e-4]}])
    options = ["--config", "short.yaml", "--data.size", "64", "--data.batch_size", "8", "--data.num_workers", "0"]
    run([str(ROOT / "examples/oxford_pets.py"), *options], pets)
    version = pets / "lightning_logs/version_0"
    record = torch.load(version / "checkpoints/best.ckpt", weights_only=True)["lightning_finetune"]
    assert record["classes"] == ["Abyssinian", "great_pyrenees"]
    assert len(measured(version)) == 3


def test_oxford_pets_by_pixel(pets: Path) -> None:
    shorten("pets_trimaps", pets, [{"epochs": 3, "size": 64}, {"epochs": 1, "size": 64}])
    options = ["--config", "short.yaml", "--data.size", "64", "--data.batch_size", "4", "--data.num_workers", "0"]
    run([str(ROOT / "examples/oxford_pets.py"), "--trimaps", *options], pets)
    epochs = measured(pets / "lightning_logs/version_0")
    assert float(epochs[-1]["val_pixel_accuracy"]) > 0.8


def test_oxford_pets_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/oxford_pets.py")],
        cwd=tmp_path,
        env={**os.environ, "https_proxy": "http://127.0.0.1:9", "no_proxy": ""},  # a port where nobody listens
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert "could not be downloaded to data/oxford-iiit-pet, which needs a network" in done.stderr
    assert "Traceback" not in done.stderr
