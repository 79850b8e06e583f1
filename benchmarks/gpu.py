"""Does everything work on a GPU, how fast is it, how well does it learn? Ready for a card that is there for minutes.

    python benchmarks/gpu.py DATA [--part smoke rate overhead quality] [--seconds 120] [--out FOLDER]
    python benchmarks/gpu.py DATA --small    # each part in its smallest form, on the CPU where there is no GPU

DATA holds ``satellite`` and some of ``camvid``. The parts follow one another, the important ones first, each in a
process of its own that is ended after so many seconds, so that all four take eight minutes at most:

- ``smoke``: the three tasks in three precisions, and whatever else a device can break; also as ``pytest -m gpu``;
- ``rate``: images a second from JPEG, against batches that lie on the device, and how busy the GPU is;
- ``overhead``: a step against a plain loop of PyTorch;
- ``quality``: the error of land use at 224 pixels after the longest run that fits.

Each row is printed and saved (``gpu_PART.json``) before the next begins. A row that is not done ten seconds before the
end of its part is given up, with what it has found. Each row that failed or was left out is named at the end and sets
the exit status. For a machine without a network see ``gpu_pack.py``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

PARTS = ("smoke", "rate", "overhead", "quality")
SECONDS = 120
SMALLEST = 2400  # on one core that others use too
SPARE = 10  # between the time at which a row is given up and the end of its part
NO_DEVICE = 3
BEGUN = "begun, and never ended"
WHEELS = Path(__file__).parents[1] / "wheels"  # of a packed folder
DATA = ("satellite/labels.csv", "satellite/images", "camvid/codes.txt", "camvid/train/images", "camvid/val/masks")
SHARED = 5e8  # bytes of batches that the workers of a part hold at most


def main() -> None:
    """Run the parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, help=f"of a part; {SECONDS}, or {SMALLEST} of the smallest form")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--small", action="store_true", help="the smallest form, on the CPU where there is no GPU")
    parser.add_argument("--here", action="store_true", help="a single part, in this process")
    options = parser.parse_args()
    options.seconds = options.seconds or (SMALLEST if options.small else SECONDS)
    if options.here:
        sys.exit(run_here(options))
    packages = ["lightning-finetune", *(wheel.name.partition("-")[0] for wheel in WHEELS.glob("*.whl"))]
    absent = [*missing(packages), *(str(options.data / name) for name in DATA if not (options.data / name).exists())]
    if absent:
        hint = f"\nAdd wheels to {WHEELS}, and their names to names.txt there." if WHEELS.exists() else ""
        sys.exit("Missing here, nothing was run:\n  " + "\n  ".join(absent) + hint)
    if not options.small and Path("/dev/shm").exists() and (free := shutil.disk_usage("/dev/shm").free) < SHARED:
        print(f"/dev/shm has {free / 1e6:.0f} MB, and 16 workers take {SHARED / 1e6:.0f}: some batches come slowly,")
        print("and not to pinned memory. In a container of docker --shm-size=2g gives it more.")
    options.out.mkdir(parents=True, exist_ok=True)
    found = run_parts(options)
    print("\n".join(["", *(f"{name}: {outcome}" for name, outcome in found.items())]))
    sys.exit(any(outcome != "ok" for outcome in found.values()))


def run_parts(options: argparse.Namespace) -> dict[str, str]:
    """How each part ended."""
    found: dict[str, str] = {}
    for name in options.part:
        if "no CUDA device" in found.values():
            found[name] = "skipped, as there is no CUDA device"
            continue
        start = time.perf_counter()
        found[name] = run_part(name, options)
        print(f"{name} took {time.perf_counter() - start:.0f} s: {found[name].partition(chr(10))[0]}", flush=True)
    return found


def run_part(name: str, options: argparse.Namespace) -> str:
    """Run a part in a process of its own, with all that it starts; how it ended."""
    here = ["--part", name, "--seconds", str(options.seconds), "--out", str(options.out), "--here"]
    command = [sys.executable, __file__, str(options.data), *here, *(["--small"] if options.small else [])]
    file, began = options.out / f"gpu_{name}.json", time.time()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(options.seconds)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        end_group(process)
    if status in (0, NO_DEVICE):
        return "no CUDA device" if status else "ok"
    why = f"ended after {options.seconds:.0f} s" if status is None else f"status {status}"
    return "\n  ".join([f"failed: {why}", *wrong_rows(file, began)])


def wrong_rows(file: Path, began: float) -> list[str]:
    """The rows of a part's file that failed, were left out or never ended; none of a file from before ``began``."""
    if not file.exists() or file.stat().st_mtime < began:
        return []
    return [
        f"{row['name']}: {row['outcome']}" for row in json.loads(file.read_text())["rows"] if row["outcome"] != "ok"
    ]


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process with its workers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def run_here(options: argparse.Namespace) -> int:
    """Run one part in this process; its exit status."""
    began = time.monotonic()
    import torch  # only now: what is missing is told without it

    if not (options.small or torch.cuda.is_available()):
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        print(f"No CUDA device is seen ({built}; look at nvidia-smi). --small tries the parts on the CPU.")
        return NO_DEVICE
    from gpu_part import Part  # beside this file

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    name = options.part[0]
    part = Part(name, options.data, options.out, began + options.seconds - SPARE, options.small)
    importlib.import_module(f"gpu_{name}").run(part)
    return 0 if part.complete else 1


def missing(packages: Iterable[str]) -> list[str]:
    """Requirements of installed packages that are not there, or there in another version; all at once."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging"]
    wrong: dict[str, None] = {}
    for package in packages:
        try:
            asked = [Requirement(line) for line in requires(package) or ()]
        except PackageNotFoundError:
            wrong[package] = None
            continue
        for need in asked:
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            try:
                if not need.specifier.contains(version(need.name), prereleases=True):
                    wrong[f"{need.name}{need.specifier}, and here is {version(need.name)}"] = None
            except PackageNotFoundError:
                wrong[f"{need.name}{need.specifier}"] = None
    return sorted(wrong)


if __name__ == "__main__":
    main()
