"""The command where disks fill up and others work in the same folder: the right bits, or one clear sentence."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.launching import QUIET, SMALL, TWO, launch
from tests.resuming import assert_same_bits

pytestmark = pytest.mark.slow
EPOCHS = ["--fine_tune.head_epochs", "1", "--fine_tune.full_epochs", "3"]
NET = ["--model.model", "test_resnet"]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
ON_A_SMALL_DISK = """
disk=$1; size=$2; kept=$3; shift 3
mount -t tmpfs -o size=$size tmpfs $disk || exit 99
cd $disk; "$@"; ended=$?
cp lightning_logs/version_0/checkpoints/last.ckpt $kept
ls -A lightning_logs/version_0/checkpoints
exit $ended
"""


def words(photos: Path, *more: str) -> list[str]:
    given = ["fit", "--data.root", str(photos), *SMALL, *NET, *QUIET, *EPOCHS, *more]
    return [sys.executable, "-m", "lightning_finetune", *given]


def state(folder: Path, version: int = 0) -> dict:
    """Weights, optimizer and place of the last checkpoint of a run."""
    path = folder / f"lightning_logs/version_{version}/checkpoints/last.ckpt"
    found = torch.load(path, weights_only=True)
    return {name: found[name] for name in ("state_dict", "optimizer_states", "global_step")}


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    process = launch(words(photos), folder)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return folder


def test_a_disk_that_fills_up_leaves_a_checkpoint_that_resumes_to_the_same_bits(whole: Path, photos: Path, tmp_path):
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    size = (whole / "lightning_logs/version_0/checkpoints/last.ckpt").stat().st_size
    (tmp_path / "disk").mkdir()
    kept = tmp_path / "kept.ckpt"
    disk = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(tmp_path / "disk"), str(int(2.1 * size)), str(kept)]
    process = launch([*NAMESPACE, *disk, *words(photos)], tmp_path)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    *_, reason, held = said.replace("\nbest.ckpt\nlast.ckpt", "\nbest.ckpt last.ckpt").strip().splitlines()
    assert reason.startswith("lightning-finetune: error: "), said
    assert "No space left on device" in reason
    assert held == "best.ckpt last.ckpt", "and nothing half-written"
    process = launch(words(photos, "--ckpt_path", str(kept)), tmp_path)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert_same_bits(state(whole), state(tmp_path))


def test_runs_in_one_folder_at_once_do_not_disturb_each_other(whole: Path, photos: Path, tmp_path: Path):
    processes = [launch(words(photos), tmp_path) for _ in range(3)]
    for process in processes:
        said, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, said
    assert {path.name for path in (tmp_path / "lightning_logs").glob("version_*")} == {
        f"version_{one}" for one in range(3)
    }
    for version in range(3):
        assert_same_bits(state(whole), state(tmp_path, version))


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_amid_an_accumulation_leaves_what_resumes_to_the_same_bits(
    photos: Path, tmp_path: Path, processes: int
):
    more = ["--trainer.accumulate_grad_batches", "2", *(TWO if processes == 2 else [])]
    undisturbed, parts = tmp_path / "whole", tmp_path / "parts"
    undisturbed.mkdir(), parts.mkdir()
    process = launch(words(photos, *more), undisturbed)
    assert process.wait(900) == 0
    process = launch(words(photos, *more), parts)
    saved = parts / "lightning_logs/version_0/checkpoints/last.ckpt"
    while not saved.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGTERM, said
    process = launch(words(photos, *more, "--ckpt_path", str(saved)), parts)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert_same_bits(state(undisturbed), state(parts, 1))
