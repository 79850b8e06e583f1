"""Packs all that ``gpu.py`` needs on a machine with a GPU and without a network into one folder of under 60 MB.

    python benchmarks/gpu_pack.py DATA FOLDER
    sh FOLDER/run.sh [options of gpu.py]    # there: installs into FOLDER/site, and runs

The folder holds this package and what it needs beside :data:`THERE` as wheels, with the default backbone's weights;
the scripts of ``gpu.py``; the tiles of ``satellite`` and some streets of ``camvid``. Wheels come from the package index
that pip uses: those without compiled code, or for Linux on x86-64 and Python 3.12. ``run.sh`` changes nothing outside
the folder, and before anything is run it tells of each package that is missing or of another version.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MOST = 60e6  # bytes
STREETS = {"train": 48, "val": 16}
PYTHON = "3.12"
THERE = (
    *("torch", "torchvision", "lightning", "torchmetrics", "timm", "rich", "pandas", "matplotlib"),
    # what those bring along
    *("fsspec", "huggingface-hub", "jinja2", "numpy", "packaging", "pillow", "pyyaml", "safetensors", "tqdm"),
    "typing-extensions",
)
"""What is taken to be there; what else such a machine lacks, ``run.sh`` tells at once."""

RUN = """#!/bin/sh
# Installs what this folder holds beside what is there, and runs benchmarks/gpu.py with the given options.
set -e
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
"$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$here/site" \\
  --find-links "$here/wheels" -r "$here/wheels/names.txt"
PYTHONPATH="$here/site" exec "$python" "$here/benchmarks/gpu.py" "$here/data" "$@"
"""


def main() -> None:
    """Make the folder, and say how it is used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(f"{options.folder} is there already; name a new folder, or remove it.")
    pack_wheels(options.folder / "wheels")
    (options.folder / "benchmarks").mkdir()
    for script in (*(ROOT / "benchmarks").glob("gpu*.py"), ROOT / "benchmarks/overhead.py"):
        shutil.copy(script, options.folder / "benchmarks")
    pack_data(options.data, options.folder / "data")
    (options.folder / "run.sh").write_text(RUN)
    size = sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file())
    if size >= MOST:
        sys.exit(f"{options.folder} takes {size / 1e6:.1f} MB, and {MOST / 1e6:.0f} are the most. Lower STREETS.")
    print(f"{options.folder}: {size / 1e6:.1f} MB. There: sh {options.folder.name}/run.sh")


def pack_wheels(folder: Path) -> None:
    """This package, and all that it needs beside what is there."""
    folder.mkdir(parents=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    waiting, seen = needs(next(folder.glob("*.whl")), {""}), set(THERE)
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name not in seen:
            seen.add(name)
            waiting += needs(download(need, folder), {"", *need.extras})
    (folder / "names.txt").write_text("".join(f"{wheel.name.partition('-')[0]}\n" for wheel in folder.glob("*.whl")))


def download(need: Requirement, folder: Path) -> Path:
    """The newest wheel that is asked for."""
    before = set(folder.glob("*.whl"))
    platforms = [word for glibc in ("_2_28", "2014") for word in ("--platform", f"manylinux{glibc}_x86_64")]
    wanted = f"{need.name}{need.specifier}"
    pip(
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        PYTHON,
        *platforms,
        "-d",
        str(folder),
        wanted,
    )
    return (set(folder.glob("*.whl")) - before).pop()


def pip(*words: str) -> None:
    """Run pip, which says itself what fails."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=True)


def needs(wheel: Path, extras: set[str]) -> list[Requirement]:
    """What a wheel asks for, with these extras, on the machine that it is packed for."""
    linux = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux"}
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    return [
        need
        for need in map(Requirement, lines)
        if need.marker is None or any(need.marker.evaluate({**linux, "extra": extra}) for extra in extras)
    ]


def pack_data(source: Path, folder: Path) -> None:
    """All tiles with their table, and the first streets with their masks."""
    files = [file for file in (source / "satellite").rglob("*") if file.is_file()]
    files.append(source / "camvid/codes.txt")
    for split, count in STREETS.items():
        for image in sorted((source / "camvid" / split / "images").iterdir())[:count]:
            files += [image, image.parents[1] / "masks" / f"{image.stem}.png"]
    for file in files:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)  # without the source's permissions: the folder can be removed


if __name__ == "__main__":
    main()
