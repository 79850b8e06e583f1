"""Is a run that is killed anywhere and started again the run that was not killed, to the bit?

    python benchmarks/kill.py DATA [--run ours] [--kills 50] [--seed 0]

DATA holds ``ants_bees``. A run is made once as a whole: ``ours``, four phases of this package's task and data (two
image sizes, unfreezings, range tests, two workers); ``foreign``, a module and shuffled loaders of somebody else;
``command``, ``lightning-finetune fit`` with its callbacks and files. Each saves every third step. Then, again and
again, the same run is killed with SIGKILL, workers included, at a random moment, and started anew until it ends.
Weights, optimizer and metrics must be those of the whole run, bit for bit. Prints what was going on at the kills, and
each run that differs. Moments are drawn in time of the processor, so that what else runs there does not move them.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ENDED, MOMENT = "ended.pt", "moment.txt"
HERE = Path(__file__).parent
COMMAND = (
    "-m lightning_finetune fit --data.size 64 --data.batch_size 16 --data.num_workers 2 --model.model test_resnet "
    "--model.weights false --fine_tune.head_epochs 1 --fine_tune.full_epochs 1 --fine_tune.find true "
    "--fine_tune.sizes [48,64] --fine_tune.min_size 32 --last.every_n_train_steps 3 --trainer.accelerator cpu "
    "--trainer.enable_progress_bar false --trainer.callbacks+=kill_moments.Moments"
)


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", choices=("ours", "foreign", "command"), default="ours")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws, moments, different = random.Random(options.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        runs = Runs(options.run, options.data.resolve(), Path(name))
        for number in range(options.kills):
            moment, wrong = runs.killed(number, draws)
            moments[moment.partition(":")[0]] += 1
            different += bool(wrong)
            verdict = f"DIFFERENT {', '.join(wrong)}" if wrong else "same"
            print(f"kill {number + 1}: {moment}: {verdict}", flush=True)
    print(f"{options.kills} kills ({', '.join(f'{count} {what}' for what, count in moments.most_common())})")
    print(f"{options.kills - different} of {options.kills} runs ended bit for bit as the one that was not killed")
    sys.exit(different > 0)


class Runs:
    """One run as a whole, and others that are killed.

    Args:
        kind: Which run.
        data: Folder of the data sets.
        folder: For the files of all.
    """

    def __init__(self, kind: str, data: Path, folder: Path) -> None:
        self.kind, self.data, self.folder = kind, data, folder
        self.began, self.ended = self.whole(folder / "whole")

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """The one command, from the last checkpoint if there is one, in a group of processes of its own."""
        folder.mkdir(exist_ok=True)
        saved = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)[-1:]
        if self.kind == "command":
            words = [*COMMAND.split(), f"--data.root={self.data / 'ants_bees'}", f"--trainer.default_root_dir={folder}"]
            words += [f"--ckpt_path={path}" for path in saved]
        else:
            words = [str(HERE / "kill_moments.py"), self.kind, str(self.data), str(folder), *map(str, saved)]
        log = (folder / "log.txt").open("ab")
        paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": paths}
        return subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )

    def whole(self, folder: Path) -> tuple[float, float]:
        """Make the run that nobody kills; seconds of the processor after which it began to train, and ended."""
        process = self.start(folder)
        began, last = None, 0.0
        while process.poll() is None:
            last = max(last, spent_by(process))
            if began is None and (folder / MOMENT).exists():
                began = last
            time.sleep(0.02)
        if process.returncode or began is None:
            raise SystemExit(f"The run fails by itself:\n{(folder / 'log.txt').read_text()[-3000:]}")
        return began, last

    def killed(self, number: int, draws: random.Random) -> tuple[str, list[str]]:
        """Kill a run, and start it again; what it was doing, and what is then not as in the whole run."""
        folder = self.folder / str(number)
        process = self.start(folder)
        moment_to_kill = draws.uniform(self.began, self.ended)
        while process.poll() is None and spent_by(process) < moment_to_kill:
            time.sleep(0.01)
        with suppress(ProcessLookupError):  # it may have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        moment = "after the end" if (folder / ENDED).exists() else said_in(folder)
        if not (folder / ENDED).exists() and self.start(folder).wait(timeout=1200):
            raise SystemExit(f"The run cannot be resumed:\n{(folder / 'log.txt').read_text()[-3000:]}")
        expected, got = (torch.load(one / ENDED) for one in (self.folder / "whole", folder))
        shutil.rmtree(folder)
        return moment, [part for part in expected if not equal(expected[part], got[part])]


def spent_by(process: subprocess.Popen[bytes]) -> float:
    """Seconds of the processor that a process has had, its workers not counted; 0 after its end. Linux only."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def said_in(folder: Path) -> str:
    """What a run was doing last."""
    return (folder / MOMENT).read_text() if (folder / MOMENT).exists() else "before training"


def equal(one: Any, other: Any) -> bool:
    """Whether two nested values are the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


if __name__ == "__main__":
    main()
