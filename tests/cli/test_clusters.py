"""The command on several machines: started by torchrun, and by SLURM's environment; here two local processes each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.launching import QUIET, SHORT, SMALL, TWO, free_port, launch, said_by

pytestmark = pytest.mark.slow


def slurm(folder: Path, words: list[str], ranks: int, **env: str) -> list[subprocess.Popen[str]]:
    """The processes that ``srun`` would start."""
    common = {
        "SLURM_NTASKS": str(ranks),
        "SLURM_NTASKS_PER_NODE": str(ranks),
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "fine-tune",
        "MASTER_PORT": free_port(),
    }
    program = [sys.executable, "-m", "lightning_finetune", *words]
    return [
        launch(program, folder, **common, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **env)
        for rank in range(ranks)
    ]


def check_one_run(folder: Path, steps: int) -> None:
    """The files of one run, not of two, which made ``steps`` steps."""
    (run,) = (folder / "lightning_logs").glob("version_*")
    assert {path.name for path in run.iterdir()} >= {"checkpoints", "config.yaml", "run.png", "metrics.csv"}
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == steps


def test_torchrun_starts_the_same_command(photos: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    words = ["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET, *TWO]
    said = said_by(launch([*torchrun, "-m", "lightning_finetune", *words], tmp_path))
    assert said.count("Plan of the run") == 1
    check_one_run(tmp_path, steps=2)  # of 24 images each step takes 2 batches of 8, and the rest is too few


def test_slurm_starts_the_same_command(photos: Path, tmp_path: Path) -> None:
    words = ["fit", "--data.root", str(photos), *SMALL, *SHORT, *QUIET, *TWO]
    ranks = slurm(tmp_path, words, 2)
    for rank in ranks:
        said_by(rank)
    check_one_run(tmp_path, steps=2)


def test_a_requeued_job_goes_on_where_it_was(photos: Path, tmp_path: Path) -> None:
    """SLURM sends SIGUSR1 before the time is up; Lightning saves and asks for a requeue; the same command goes on."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin/scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    words = ["fit", "--data.root", str(photos), *SMALL, *QUIET, "--fine_tune.head_epochs", "1"]
    words += ["--fine_tune.full_epochs", "40"]
    (job,) = slurm(tmp_path, words, 1, PATH=path)
    saved = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    for _ in range(600):
        if saved.exists() or job.poll() is not None:
            break
        time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)
    for _ in range(300):
        if (tmp_path / "requeued").exists():
            break
        time.sleep(0.1)
    job.kill()
    said, _ = job.communicate()
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "77"], said
    (kept,) = tmp_path.glob("hpc_ckpt_*.ckpt")
    begun = torch.load(kept, weights_only=True)["global_step"]
    (again,) = slurm(tmp_path, words, 1, PATH=path)
    said = said_by(again)
    assert 0 < begun < 41 * 3
    assert "hpc_ckpt" in said
    ended = torch.load(tmp_path / "lightning_logs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert ended["global_step"] == 41 * 3
