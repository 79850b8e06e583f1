"""``benchmarks/recipes.py``: its statistics and tables on planted errors, its folds, and the smallest run."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"


@pytest.fixture
def statistics(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recipes_statistics")


@pytest.fixture
def tables(statistics: ModuleType) -> ModuleType:
    return importlib.import_module("recipes_tables")


@pytest.fixture
def sets(statistics: ModuleType) -> ModuleType:
    return importlib.import_module("recipes_sets")


def planted(rng: np.random.Generator, images: int, *rates: float) -> Any:
    """Errors ``[images, 1, ways]`` of ways that are wrong independently."""
    return (rng.random((images, 1, len(rates))) < rates).astype(float)


def test_half_of_the_errors_is_found_and_lies_in_the_interval(statistics: ModuleType):
    rng = np.random.default_rng(0)
    found = statistics.compare([planted(rng, 2000, 0.1, 0.2), planted(rng, 1000, 0.05, 0.1)], draws=2000)
    assert found.low < 0.5 < found.high
    assert 0.4 < found.ratio < 0.6
    assert found.p < 0.001


def test_equal_ways_are_rarely_told_apart(statistics: ModuleType):
    rng = np.random.default_rng(1)
    found = [statistics.compare([planted(rng, 60, 0.1, 0.1)], draws=300) for _ in range(300)]
    assert np.mean([ratio.p < 0.05 for ratio in found]) < 0.08
    assert np.mean([ratio.low <= 1 <= ratio.high for ratio in found]) > 0.9


def test_four_images_more_are_no_evidence(statistics: ModuleType):
    """By the exact test of McNemar p is 2 * 0.5**4 = 0.125."""
    errors = np.zeros((200, 1, 2))
    errors[:20] = 1
    errors[20:24, :, 1] = 1
    assert statistics.compare([errors]).p == pytest.approx(0.125, abs=0.01)


def test_ways_that_are_wrong_on_the_same_images_are_compared_more_narrowly(statistics: ModuleType):
    rng = np.random.default_rng(2)
    errors = np.repeat(planted(rng, 500, 0.2), 2, axis=2)
    errors[:15, :, 1] = 1
    apart = np.stack([errors[..., 0], rng.permutation(errors[..., 1])], axis=-1)
    together, alone = (statistics.compare([pair], draws=2000) for pair in (errors, apart))
    assert together.ratio == pytest.approx(alone.ratio)
    assert np.log(together.high / together.low) < 0.5 * np.log(alone.high / alone.low)


def test_no_error_at_all_is_half_an_error(statistics: ModuleType):
    errors = np.zeros((99, 1, 2))
    errors[:4, :, 1] = 1
    assert statistics.compare([errors], draws=500).ratio == pytest.approx(0.5 / 4.5)


def test_images_of_a_set_are_drawn_together_for_all_sizes_of_its_training_part(statistics: ModuleType):
    """The same runs twice say nothing new, so they must not make the interval narrower, as another set would."""
    once = planted(np.random.default_rng(3), 400, 0.1, 0.15)
    twice = np.concatenate([once, once], axis=1)
    alone, same, more = (statistics.compare(found, draws=4000) for found in ([once], [twice], [once, once]))
    width = [np.log(ratio.high / ratio.low) for ratio in (alone, same, more)]
    assert width[1] == pytest.approx(width[0], rel=0.05)
    assert width[2] < 0.8 * width[0]


def test_images_that_a_size_was_not_judged_on_do_not_count(statistics: ModuleType):
    whole = planted(np.random.default_rng(4), 300, 0.1, 0.2)
    partly = np.concatenate([whole, np.where(np.arange(300)[:, None, None] < 150, whole, np.nan)], axis=1)
    sums = [np.log((whole[:most].sum((0, 1)) + 0.5) / (most + 1)) for most in (300, 150)]
    expected = np.exp(np.mean([a - b for a, b in sums]))
    assert statistics.compare([partly], draws=200).ratio == pytest.approx(expected)


def test_parts_of_wrong_pixels_are_compared_too(statistics: ModuleType):
    rng = np.random.default_rng(5)
    errors = rng.uniform(0.1, 0.2, (100, 1, 1)) * np.array([0.9, 1.0])
    found = statistics.compare([errors], draws=2000)
    assert found.low < found.ratio < found.high < 1
    assert found.ratio == pytest.approx(0.9, abs=0.01)


def test_holm_corrects_for_many_comparisons(statistics: ModuleType):
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def row(way: str, name: str, wrong: int, cpu: float = 10.0, fold: int = 0) -> dict[str, Any]:
    key = {"way": way, "set": name, "fold": fold, "epochs": 8, "valid": 100, "error": wrong / 100}
    return {**key, "wrong": list(range(wrong)), "cpu": [cpu / 2, cpu]}


def test_the_best_peer_is_one_way_over_all_sets(tables: ModuleType):
    """Each of the uneven peers is the best on a set of its own."""
    errors = {"ours": (10, 10), "uneven": (5, 60), "other": (60, 5), "steady": (12, 12)}
    rows = [row(way, name, wrong) for way, pair in errors.items() for name, wrong in zip("ab", pair, strict=True)]
    assert tables.overall(rows).endswith("The best single peer over all sets: steady.")


def test_at_equal_seconds_a_slow_way_has_fewer_epochs(tables: ModuleType):
    """Ours stays at its eight epochs, whatever else was run of it."""
    times = {("ours", 8): 10, ("ours", 4): 5, ("slow", 8): 20, ("slow", 4): 11, ("fast", 8): 8, ("fast", 12): 12.5}
    rows = [{**row(way, "a", 1, cpu), "epochs": epochs} for (way, epochs), cpu in times.items()]
    chosen = [(found["way"], found["epochs"]) for found in tables.equal_seconds(rows)]
    assert chosen == [("ours", 8), ("slow", 4), ("fast", 8)]


def test_only_what_all_ways_ran_is_compared_over_all_sets(tables: ModuleType):
    rows = [row("ours", "a", 10, 10), row("peer", "a", 20, 20), row("ours", "b", 90), row("ours", "a", 90, fold=1)]
    line = next(line for line in tables.overall(rows).splitlines() if line.startswith("| peer"))
    assert line.split(" | ")[1] == f"{10.5 / 20.5:.2f}"
    assert line.split(" | ")[4] == "0.50"
    assert "1 sets, 1 runs" in tables.overall(rows)


def test_a_set_says_where_ours_is_significantly_better_or_worse(tables: ModuleType):
    rows = [row("ours", "a", 10), row("bad", "a", 40), row("same", "a", 11), row("good", "a", 1)]
    line = tables.per_set([*rows, row("same", "a", 11, fold=1)]).splitlines()[2]
    assert line == "| a | 2 | 0.100 † | 0.400 + † | 0.110 | 0.010 - † |"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")
def test_no_image_judges_in_two_folds_and_each_class_has_its_share(sets: ModuleType):
    tasks = [sets.make_task(DATA, "textures-200", fold) for fold in range(sets.FOLDS)]
    judging = [file for task in tasks for file, _ in task.valid]
    assert len(judging) == len(set(judging)) == 1200
    for task in tasks:
        assert not {file for file, _ in task.train} & {file for file, _ in task.valid}
        labels = [label for _, label in task.train]
        assert len(labels) == 200
        assert {labels.count(label) for label in labels} <= {19, 20, 21}
    assert sets.make_task(DATA, "textures-48", 0).train == tasks[0].train[:48]
    assert sets.make_task(DATA, "textures-48", 0).batch == 16


def recipes(*options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "recipes.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data sets of ../shared/data")
def test_a_run_keeps_a_row_at_once_and_makes_none_twice(tmp_path: Path):
    out = tmp_path / "rows.jsonl"
    out.write_text('{"way": "ours", "set": "trash-48"')  # as an interruption leaves it
    ways = ["ours", "head", "lessons", "plain-1e-03", "backbone-1e-03", "autogluon", "bit"]
    what = ["--ways", *ways, "--sets", "trash-48", "--epochs", "2", "--out", str(out)]
    first = recipes("run", str(DATA), "--folds", "0", *what)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [found["way"] for found in rows] == ways
    assert len(first.splitlines()) == len(ways)
    for found in rows:
        assert found["error"] == pytest.approx(len(found["wrong"]) / found["valid"], abs=1e-4)
        assert found["error"] == pytest.approx(found["timeline"][-1][1], abs=1e-4)
        assert 0 < found["training"][0] <= found["cpu"][-1]
    assert rows[0]["error"] < 0.65  # of six classes
    assert recipes("run", str(DATA), "--folds", "0", *what) == ""
    assert "| trash-48 | 1 |" in recipes("table", *what)
