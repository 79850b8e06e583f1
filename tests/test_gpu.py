"""``benchmarks/gpu.py``: on a GPU each check of its first part as a test, anywhere each part in its smallest form."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from lightning_finetune import FineTune, ImageClassifier, Phase
from lightning_finetune.tasks.measures.finite import FiniteLoss
from tests.foreign import quiet_trainer
from tests.tasks.subjects import batches

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
SCRIPT = ROOT / "benchmarks/gpu.py"
sys.path.append(str(SCRIPT.parent))

import gpu  # noqa: E402  # beside the script, as it is run
from gpu_pack import needs  # noqa: E402
from gpu_part import Part  # noqa: E402
from gpu_rate import busy_share  # noqa: E402
from gpu_smoke import CHECKS, Ground  # noqa: E402
from gpu_waits import Waits  # noqa: E402

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@needs_data
@pytest.mark.parametrize("name", CHECKS)
def test_it_works_on_a_gpu(name, tmp_path):
    CHECKS[name](Ground(DATA.resolve(), tmp_path, "cuda"))


def run(*options: object, script: Path = SCRIPT, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, **settings)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("part", gpu.PARTS)
def test_each_part_runs_in_its_smallest_form(part, tmp_path):
    done = run(DATA, "--small", "--part", part, "--out", tmp_path)
    kept = json.loads((tmp_path / f"gpu_{part}.json").read_text())
    assert kept["small"]
    assert {row["name"]: row["outcome"] for row in kept["rows"] if row["outcome"] != "ok"} == {}
    assert kept["rows"]
    assert done.returncode == 0, done.stdout
    assert f"{part}: ok" in done.stdout


@pytest.mark.slow  # gets wheels from the package index
@needs_data
def test_a_packed_folder_installs_and_runs(tmp_path):
    packed = tmp_path / "packed"
    done = run(DATA, packed, script=ROOT / "benchmarks/gpu_pack.py")
    assert done.returncode == 0, done.stderr
    assert sum(file.stat().st_size for file in packed.rglob("*") if file.is_file()) < 60e6
    options = ["--small", "--part", "overhead", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["sh", packed / "run.sh", *options], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "gpu_overhead.json").read_text())["package"].startswith(str(packed / "site"))


@without_gpu
@needs_data
def test_without_a_device_nothing_is_measured(tmp_path):
    done = run(DATA, "--part", "smoke", "rate", "--out", tmp_path)
    assert done.returncode == 1
    assert f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" in done.stdout
    assert done.stdout.endswith("smoke: no CUDA device\nrate: skipped, as there is no CUDA device\n")


@needs_data
def test_a_part_that_hangs_is_ended(tmp_path):
    start = time.monotonic()
    done = run(DATA, "--small", "--part", "smoke", "--seconds", 0.5, "--out", tmp_path)
    assert time.monotonic() - start < 30
    assert done.returncode == 1
    assert "smoke: failed: ended after 0 s" in done.stdout


def test_the_row_in_which_a_part_dies_is_named(tmp_path):
    began = time.time()
    part = Part("rate", tmp_path, tmp_path, time.monotonic() + 100, small=True)
    part.row("first", dict)
    if not (child := os.fork()):
        part.row("second", lambda: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    assert gpu.wrong_rows(tmp_path / "gpu_rate.json", began) == ["second: begun, and never ended"]
    assert gpu.wrong_rows(tmp_path / "gpu_rate.json", time.time() + 1) == [], "of a run before"


def test_data_that_is_missing_is_told_at_once(tmp_path):
    done = run(tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("Missing here, nothing was run:\n")
    assert str(tmp_path / "satellite/labels.csv") in done.stderr
    assert str(tmp_path / "camvid/codes.txt") in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_told_at_once(tmp_path, monkeypatch):
    assert gpu.missing(["lightning-finetune"]) == []
    folder = tmp_path / "packed-1.0.dist-info"
    folder.mkdir()
    asked = ("torch>=999", "nowhere-to-be-found>=2", "pytest", 'other; extra == "more"', 'old; python_version < "3"')
    lines = ["Metadata-Version: 2.1", "Name: packed", "Version: 1.0", *(f"Requires-Dist: {need}" for need in asked)]
    (folder / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    wrong = ["absent", "nowhere-to-be-found>=2", f"torch>=999, and here is {version('torch')}"]
    assert gpu.missing(["packed", "absent"]) == wrong


def test_a_row_that_fails_is_saved_and_the_next_is_tried(tmp_path, capsys):
    part = Part("rate", tmp_path, tmp_path, time.monotonic() + 100, small=True)
    part.row("first", lambda: {"images": 3.0})
    assert part.complete
    part.row("second", lambda: {"images": 1 / 0})
    part.row("third", dict, needs=1000)
    first, second, third = (row["outcome"] for row in json.loads((tmp_path / "gpu_rate.json").read_text())["rows"])
    assert (first, second) == ("ok", "failed: ZeroDivisionError: division by zero")
    assert re.fullmatch(r"skipped: \d+ s are left", third)
    assert not part.complete
    assert "| second | failed: ZeroDivisionError" in capsys.readouterr().out


def test_a_row_that_takes_too_long_is_given_up_with_what_it_found(tmp_path):
    part = Part("rate", tmp_path, tmp_path, time.monotonic() + 0.3, small=True)
    found = {}

    def measure() -> dict:
        found["head"] = 100.0
        time.sleep(60)
        return found

    assert part.row("slow", measure, so_far=found) == {}
    part.row("next", dict)
    slow, after = json.loads((tmp_path / "gpu_rate.json").read_text())["rows"]
    assert slow["outcome"].startswith("failed: TimeoutError: not done in the 0 s that were left")
    assert slow["head"] == 100
    assert after["outcome"] == "skipped: 0 s are left"
    time.sleep(0.3)  # no alarm is left


def test_the_busy_share_counts_what_overlaps_once():
    assert busy_share([(5, 6), (0, 2), (1, 3), (1, 2)]) == pytest.approx(4 / 6)


def test_a_wait_of_ours_is_laid_to_its_line(tmp_path, monkeypatch):
    def fit() -> Waits:
        watch = Waits("cpu")
        trainer = quiet_trainer(tmp_path, callbacks=[FineTune([Phase(1, "all", 1e-3)]), watch])
        trainer.fit(ImageClassifier("test_resnet", num_classes=3, weights=False), batches("single", 24))
        return watch

    def waits(watch: Waits) -> list[str]:
        """Without those of labels, which are checked in each step on the CPU, where that costs nothing."""
        return [line for line in watch.ours if not line.startswith("classification.py:")]

    quiet = fit()
    assert quiet.steps == 4
    assert waits(quiet) == []
    monkeypatch.setattr(FiniteLoss, "watch", lambda self, loss, *_: float(loss))
    hasty = fit()
    assert len(waits(hasty)) == hasty.steps
    assert waits(hasty)[0].startswith("base.py:")
    assert waits(hasty)[0].endswith('self._finite.watch(outputs["loss"], batch_idx, rates)')


def test_what_a_wheel_needs_depends_on_its_extras_and_the_machine(tmp_path):
    wheel = tmp_path / "packed-1.0-py3-none-any.whl"
    asked = (
        "torch>=2",
        'typeshed; extra == "signatures"',
        'backport; python_version < "3.11"',
        'dll; sys_platform == "win32"',
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = ["Metadata-Version: 2.1", "Name: packed", "Version: 1.0", *(f"Requires-Dist: {need}" for need in asked)]
        archive.writestr("packed-1.0.dist-info/METADATA", "\n".join(lines))
    assert needs(wheel, {""}) == [Requirement("torch>=2")]
    assert [need.name for need in needs(wheel, {"", "signatures"})] == ["torch", "typeshed"]
