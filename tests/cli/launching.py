"""Words of the command that make a run short, processes that it runs in, and the tables that it leaves."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

SMALL = ["--data.size", "32", "--data.batch_size", "8", "--data.num_workers", "0", "--model.weights", "false"]
SHORT = ["--fine_tune.head_epochs", "1", "--fine_tune.full_epochs", "1"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
PROGRAM = str(Path(sys.executable).with_name("lightning-finetune"))
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


def said_by(process: subprocess.Popen[str]) -> str:
    """What a process says that ends well."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
