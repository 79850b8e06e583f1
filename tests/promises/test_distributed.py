"""Real gloo processes: what they agree on, and what happens when one of them is lost."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.callbacks.situations import CALLBACKS
from tests.data.images import fill
from tests.resuming import ROOT, assert_same_bits, run
from tests.tasks.subjects import TASKS

pytestmark = pytest.mark.slow
TWO = ["--strategy", "ddp", "--devices", 2, "--optimizer", "adamw", "--shuffle", "--batch-size", 4]


@pytest.mark.parametrize("processes", [2, 4])
def test_every_callback_and_task_keeps_processes_equal(tmp_path: Path, processes: int):
    words = [sys.executable, "-m", "tests.promises.distributed", str(tmp_path), str(processes)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-3000:]
    agreed = [line.removeprefix("agreed: ") for line in found.stdout.splitlines() if line.startswith("agreed: ")]
    assert agreed == [*CALLBACKS, *TASKS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    return run(tmp_path_factory.mktemp("whole"), *TWO)


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory) -> dict:
    return run(tmp_path_factory.mktemp("accumulated"), *TWO, "--accumulate", 3)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path, accumulated, rank, number):
    """Sent before the second of the three batches of step 5, in the third of epochs of two steps."""
    words = [*map(str, TWO), "--accumulate", "3", "--stop", "4", "--stop-rank", str(rank), "--how", number]
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs", str(tmp_path), *words], cwd=ROOT, capture_output=True, timeout=400
    )
    assert not list(tmp_path.glob("rank*.pt")), "ended before its end"
    last = tmp_path / "rank0/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5, done.stderr[-3000:]
    (tmp_path / "rest").mkdir()
    resumed = run(tmp_path / "rest", *TWO, "--accumulate", 3, "--resume", last)
    assert_same_bits(accumulated["params"], resumed["params"])
    assert_same_bits(accumulated["optimizer"], resumed["optimizer"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_process_ends_the_job_and_a_restart_ends_as_if_it_had_lived(tmp_path: Path, whole: dict, rank: int):
    """Lost in the second epoch, after an unfreezing; the others must not wait for it."""
    words = [*map(str, TWO), "--stop", "8", "--stop-rank", str(rank)]
    begun = time.monotonic()
    lost = subprocess.run(
        [sys.executable, "-m", "tests.runs", str(tmp_path), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert lost.returncode != 0
    assert time.monotonic() - begun < 100
    said = lost.stdout + lost.stderr
    assert any(words in said for words in ("Connection closed", "Connection reset", "died", "17")), said[-3000:]
    resumed = run(tmp_path, *TWO, "--resume", tmp_path / "step=6.ckpt")
    assert_same_bits(whole["params"], resumed["params"])
    assert_same_bits(whole["optimizer"], resumed["optimizer"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_raises_ends_the_job_with_its_reason(tmp_path: Path, whole: dict, rank: int):
    words = [*map(str, TWO), "--stop", "8", "--stop-rank", str(rank), "--how", "raise"]
    lost = subprocess.run(
        [sys.executable, "-m", "tests.runs", str(tmp_path), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert lost.returncode != 0
    assert "This process cannot go on." in lost.stdout + lost.stderr
    resumed = run(tmp_path, *TWO, "--resume", tmp_path / "step=6.ckpt")
    assert_same_bits(whole["params"], resumed["params"])


def test_amid_an_epoch_another_number_of_processes_is_refused_where_the_loader_is_foreign(tmp_path: Path):
    run(tmp_path, *TWO, "--every", 1, "--stop", 8, expect=17)
    words = [sys.executable, "-m", "tests.runs", str(tmp_path), "--optimizer", "adamw", "--resume"]
    one = subprocess.run([*words, tmp_path / "step=8.ckpt"], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert one.returncode != 0
    assert "within an epoch of 2 processes, and this run has 1" in one.stderr
    after = subprocess.run([*words, tmp_path / "step=6.ckpt"], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert after.returncode == 0, after.stderr[-3000:]
    assert "goes on with 1 processes, not 2" in after.stderr


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("step", [7, 6])  # within the third epoch of three steps, and at its beginning
def test_with_another_number_of_processes_each_image_is_seen_once_an_epoch(tmp_path, before, after, step):
    """Batches of 4 in two processes and of 8 in one are the same images together."""
    for split, count in (("train", 13), ("valid", 4)):
        for name in ("a", "b"):
            fill(tmp_path / "images" / split / name, count, start=100 * (name == "b"))

    def options(processes):
        many = ["--strategy", "ddp", "--devices", 2] if processes == 2 else []
        return [
            "--images",
            tmp_path / "images",
            "--batch-size",
            8 // processes,
            "--every",
            1,
            "--which",
            "apart",
            *many,
        ]

    def seen(folder, processes):
        ranks = [torch.load(folder / f"rank{rank}.pt")["seen"] for rank in range(processes)]
        steps = zip(*ranks, strict=True)
        return [(step[0][0], sorted(image for _, batch in step for image in batch)) for step in steps]

    for folder in ("whole", "rest"):
        (tmp_path / folder).mkdir()
    run(tmp_path / "whole", *options(before))
    run(tmp_path / "rest", *options(after), "--resume", tmp_path / f"whole/step={step}.ckpt")
    assert seen(tmp_path / "rest", after) == seen(tmp_path / "whole", before)[step:]
