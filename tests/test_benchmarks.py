"""Each script that measures speed still does, in its smallest form: no number is judged, only that there is one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")]

SMALL = {
    "startup": "--pairs 1",
    "overhead": "--rounds 1 --steps 20 --out OUT",
    "classes": "--classes 10 --images 100 --out OUT",
    "growth": "DATA/satellite/images --sizes 1000 --classes 10 --check 1000 --out OUT",
    "frozen time": "DATA --sizes 64 --out OUT",
    "frozen views": "DATA --views 1 --epochs 2 --seeds 1 --out OUT",
    "parts": "DATA --rounds 1 --sizes 64 --out OUT",
    "allocator": "--sizes 64 --rounds 1 --out OUT",
    "rate": "DATA --rounds 1 --cases 0 --out OUT",
    "resizing table": "",
    "end_to_end table": "",
}


def words_of(name: str, out: Path) -> list[str]:
    script, *what = name.split()
    options = SMALL[name].replace("DATA", str(DATA)).replace("OUT", str(out))
    return [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *what, *options.split()]


@pytest.mark.parametrize("name", SMALL)
def test_it_gives_numbers(name: str, tmp_path: Path):
    out = tmp_path / "out.json"
    done = subprocess.run(words_of(name, out), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    tables = re.findall(r"^\|[-|]+\|$((?:\n\|.*\|$)+)", done.stdout, re.MULTILINE)
    assert tables
    for row in "".join(tables).split("\n")[1:]:
        first, *cells = row.strip("|").split("|")
        assert first.strip()
        assert any(re.search(r"\d", cell) for cell in cells), row
    if "OUT" in SMALL[name]:
        assert json.loads(out.read_text())


def test_all_of_make_bench_is_tried():
    recipe = re.search(r"^bench:.*?\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    scripts = set(re.findall(r"benchmarks/(\w+)\.py", recipe[1]))
    assert scripts == {name.split()[0] for name in SMALL}
