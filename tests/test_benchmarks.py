"""Each script that measures speed still does, in its smallest form: no number is judged, only that it is one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
SMALL = {
    "startup": "--pairs 1 --out OUT.json",
    "overhead": "--rounds 1 --steps 40 --out OUT.json",
    "classes": "--classes 10 --images 100 --out OUT.json",
    "growth": "DATA/satellite/images --sizes 1000 --classes 10 --out OUT.json",
    "parts": "DATA --rounds 1 --sizes 64 --out OUT.json",
    "allocator": "--sizes 64 --rounds 1 --out OUT.json",
    "rate": "DATA --rounds 1 --cases 0 --out OUT.json",
    "predict_rate": "DATA --images 32 --sizes 64 --rounds 1 --out OUT.json",
    "resizing table": "",
    "range_digits table": "",
    "resizing plot": "OUT.png",
    "recipes table": "",
}


def measure(name: str, out: Path) -> str:
    script, *what = name.split()
    options = SMALL[name].replace("DATA", str(DATA)).replace("OUT", str(out))
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *what, *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")
@pytest.mark.parametrize("name", [name for name in SMALL if name != "resizing plot"])
def test_its_tables_hold_numbers(name: str, tmp_path: Path):
    lines = [line for line in measure(name, tmp_path / "out").splitlines() if line.startswith("|")]
    below = [place for place, line in enumerate(lines) if re.fullmatch(r"[-|]+", line)]
    rows = [line for place, line in enumerate(lines) if place not in below and place + 1 not in below]
    assert below
    assert rows
    for row in rows:
        first, *cells = row.strip("|").split("|")
        assert first.strip()
        assert any(re.search(r"[1-9]", cell) for cell in cells), row
        assert "nan" not in row
        assert "| no |" not in row  # the bits are not the same
    if "OUT" in SMALL[name]:
        assert json.loads((tmp_path / "out.json").read_text())


def test_resizing_is_drawn(tmp_path: Path):
    done = forking.run(ROOT / "benchmarks/resizing.py", "plot", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_every_script_of_make_bench_is_tried():
    recipe = re.search(r"^bench:.*?\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    scripts = set(re.findall(r"benchmarks/(\w+)\.py", recipe[1]))
    assert scripts == {name.split()[0] for name in SMALL}


def test_the_tests_that_hold_our_ticks_exist() -> None:
    rows = json.loads((ROOT / "benchmarks/peers.json").read_text())["rows"]
    for row in rows:
        for test in row["libraries"]["lightning_finetune"]["tests"]:
            file, _, name = test.partition("::")
            assert re.search(rf"def {re.escape(name)}\(", (ROOT / file).read_text()), test
