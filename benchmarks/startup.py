"""How long do the command and the package take to start, beside Lightning alone?

    python benchmarks/startup.py [--pairs 9] [--out FILE.json]

Each contender is a process of its own, started in turns with one that imports Lightning and does nothing. The ratio is
the median over the pairs. The first turn is not counted: it reads the files into memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIGHTNING = ["-c", "import lightning.pytorch"]
COMMAND = ["-m", "lightning_finetune"]
WRONG = "--fine_tune.lrr=1"
METRICS = str(Path(tempfile.gettempdir()) / "startup_metrics.csv")
CONTENDERS = {
    "lightning-finetune --help": [*COMMAND, "--help"],
    "lightning-finetune fit --help": [*COMMAND, "fit", "--help"],
    "lightning-finetune fit with a wrong option": [*COMMAND, "fit", WRONG],
    "lightning-finetune fit --help-all": [*COMMAND, "fit", "--help-all"],
    "lightning-finetune diagnose metrics.csv": [*COMMAND, "diagnose", METRICS],
    "from lightning_finetune import FineTune": ["-c", "from lightning_finetune import FineTune"],
    "from lightning_finetune import ImageData": ["-c", "from lightning_finetune import ImageData"],
    "from lightning_finetune import ImageClassifier": ["-c", "from lightning_finetune import ImageClassifier"],
    "import lightning_finetune": ["-c", "import lightning_finetune"],
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    Path(METRICS).write_text("\n".join(["step,train_loss", *(f"{step},{1 / (step + 1)}" for step in range(1000))]))
    print("| command | seconds | beside Lightning alone |\n|---|---|---|")
    for name, words in CONTENDERS.items():
        turns = [(seconds(words), seconds(LIGHTNING)) for _ in range(options.pairs + 1)][1:]
        rows.append({"command": name, "turns": turns})
        ratio = statistics.median(ours / lightning for ours, lightning in turns)
        print(f"| `{name}` | {statistics.median(ours for ours, _ in turns):.2f} | {ratio:.2f} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def seconds(words: list[str]) -> float:
    """From the start of a process to its end, which only a wrong option may make an error."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != (2 if WRONG in words else 0):
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
