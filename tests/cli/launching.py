"""Words of the command that make a run short, and processes that it runs in."""

import os
import socket
import subprocess
from pathlib import Path

SMALL = ["--data.size", "32", "--data.batch_size", "8", "--data.num_workers", "0", "--model.weights", "false"]
SHORT = ["--fine_tune.head_epochs", "1", "--fine_tune.full_epochs", "1"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def launch(words: list[str], folder: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
