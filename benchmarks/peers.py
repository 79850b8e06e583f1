"""What this package, fastai, Lightning's own callbacks and finetuning-scheduler do, seen by running each.

    python benchmarks/peers.py run     # needs fastai, accelerate and finetuning-scheduler beside this package
    python benchmarks/peers.py table   # the README's, from peers.json

A row is a thing that people want of fine-tuning. For the others it is tried by a check of ``peers_fastai.py``,
``peers_lightning.py`` or ``peers_more.py`` (what they have and this package has not), in a process of its own, on a
small network; for this package by the tests named here. What was seen, in a sentence, is kept in ``peers.json`` with
the versions. ``partly`` is what takes handwork, or holds in part; ``documented`` was not run. Of AutoGluon's
``MultiModalPredictor`` only the documentation was read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix(".json")
OTHERS = {"fastai": "fastai", "lightning": "lightning", "finetuning_scheduler": "finetuning-scheduler"}
TITLES = {
    "lightning_finetune": "this package",
    "fastai": "fastai",
    "lightning": "Lightning",
    "finetuning_scheduler": "finetuning-scheduler",
    "autogluon": "AutoGluon",
}
SIGNS = {"yes": "✓", "partly": "(✓)", "no": "✗", "documented": "doc.", "unnamed": "-"}

_T, _R = "tests/callbacks/test_", "tests/run/test_"
ROWS: dict[str, tuple[str, list[str]]] = {
    "One cycle for each phase of freezing, in one run": (
        "cycles",
        [f"{_T}fine_tune.py::test_the_run_is_the_plan_that_was_shown_before_it"],
    ),
    "Rates spread over layer groups, in any model, from the first step": (
        "rates",
        [f"{_T}one_cycle.py::test_each_group_peaks_at_its_rate"],
    ),
    "Range test after an unfreezing": (
        "range_later",
        [f"{_T}lr_range_test.py::test_the_same_after_an_unfreezing_under_one_cycle"],
    ),
    "Range test keeps the ratios of the groups' rates": (
        "range_ratios",
        [f"{_T}lr_range_test.py::test_groups_keep_their_ratio_during_the_test_and_after_it"],
    ),
    "Range test leaves no trace": (
        "range_trace",
        [
            f"{_T}lr_range_test.py::test_a_run_with_it_equals_a_run_without_it_bit_for_bit",
            f"{_T}lr_range_test.py::test_a_resumed_run_does_not_repeat_it_and_ends_with_the_same_bits",
        ],
    ),
    "Frozen norm layers do not move": ("norms", [f"{_T}frozen.py::test_nothing_of_what_is_frozen_moves"]),
    "Replicas stay equal through an unfreezing under DDP": (
        "replicas",
        [
            f"{_R}ddp.py::test_replicas_are_bitwise_equal",
            f"{_R}ddp.py::test_two_processes_are_one_with_the_doubled_batch",
        ],
    ),
    "Killed before or after an unfreezing, resumes to the same bits": (
        "resume_between",
        [f"{_R}resume.py::test_a_run_killed_between_epochs_resumes_to_the_same_bits"],
    ),
    "Killed within an epoch, resumes to the same bits": (
        "resume_within",
        [f"{_R}resume.py::test_a_run_killed_within_an_epoch_continues_with_the_next_unseen_batch"],
    ),
    "Images grow during the run": (
        "sizes",
        [
            f"{_T}progressive_resizing.py::test_the_workers_of_the_packages_data_follow_the_epochs",
            f"{_T}progressive_resizing.py::test_batches_of_anybodys_loader_are_resized_on_the_device",
        ],
    ),
    "The whole run is shown before it starts": (
        "plan",
        [f"{_T}fine_tune.py::test_it_shows_the_plan_first_and_each_phases_results_last"],
    ),
    "A run is diagnosed in words": (
        "diagnosis",
        [f"{_T}training_diagnosis.py::test_a_phase_is_judged_by_its_own_curves"],
    ),
    "Phases and rates are options of a command, as a sweep needs": (
        "options",
        ["tests/cli/test_sweep_files.py::test_every_value_of_every_parameter_is_understood"],
    ),
    "A wrong configuration is an error before training": (
        "mistakes",
        [f"{_T}gradual_unfreezing.py::test_what_does_not_fit_the_run_is_refused_before_the_first_batch"],
    ),
    "Checkpoints load without the library": (
        "checkpoints",
        [f"{_R}trainer.py::test_a_checkpoint_loads_without_the_callbacks"],
    ),
    "A phase ends when a metric stops improving": (
        "early_end",
        [
            "tests/run/test_self_ending.py::test_a_run_that_ends_its_phases_equals_the_run_with_those_lengths_by_hand",
            "tests/run/test_self_ending.py::test_the_next_phase_begins_with_the_best_validation",
        ],
    ),
    "A search over settings, built in": (
        "search",
        ["tests/cli/test_sweep_files.py::test_every_value_of_every_parameter_is_understood"],
    ),
    "Parameters may be sharded (FSDP)": (
        "sharded",
        [
            f"{_R}sharded.py::test_two_unfreezings_with_sharded_parameters_are_those_of_ddp_and_load_in_one_process",
        ],
    ),
}
NOT_OURS = {
    "Text and tables as data": ("data", "images alone; modules of others may read anything"),
    "A new optimizer for a phase": ("new_optimizer", "one optimizer, whose parameter groups are made once"),
    "Adapters (LoRA) made by the library": ("adapters", "those of peft train as they are made"),
    "An average of the best checkpoints": ("averages", "Lightning's WeightAveraging may stand beside the phases"),
}
"""What others have and this package has not, and what it says instead."""

DOCUMENTED = {
    "rates": "`optim.lr_choice`: layerwise_decay, two_stages",
    "search": "`hyperparameter_tune_kwargs`",
    "data": "images beside text and tables in one model",
    "adapters": "`optim.peft`: lora, ia3, bit_fit and others",
    "averages": "`optim.top_k_average_method`: greedy_soup, uniform_soup",
}
"""What AutoGluon's documentation names; it names none of the other rows."""

EVERY: dict[str, tuple[str, list[str] | str]] = {**ROWS, **NOT_OURS}
MORE = {"search", "sharded", *(key for key, _ in NOT_OURS.values())}


def main() -> None:
    """Look at every cell, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--rows", nargs="+", choices=[row[0] for row in EVERY.values()], help="only these, again")
    options = parser.parse_args()
    if options.command == "run":
        run(options.rows)
    print(table(json.loads(RESULTS.read_text())["rows"]))


def run(only: list[str] | None) -> None:
    """Look at the rows, and keep what was seen after each."""
    known = {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}
    for name, (key, held) in EVERY.items():
        if only is None or key in only:
            own = ours(held) if isinstance(held, list) else {"result": "no", "seen": held, "tests": []}
            cells = {"lightning_finetune": own, **{library: other(library, key) for library in OTHERS}}
            cells["autogluon"] = documented(key)
            known[name] = {"name": name, "libraries": cells}
            for library, cell in cells.items():
                print(f"{key}, {library}: {cell['result']}: {cell['seen']}", flush=True)
            rows = [known[name] for name in EVERY if name in known]
            versions = {library: importlib.metadata.version(package) for library, package in OTHERS.items()}
            text = json.dumps({"versions": versions, "rows": rows}, indent=1, ensure_ascii=False)
            RESULTS.write_text(text + "\n", encoding="utf-8")


def ours(tests: list[str]) -> dict[str, Any]:
    """Whether the tests that hold a promise pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *tests]
    passed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    return {"result": "yes" if passed else "no", "seen": f"its tests {'pass' if passed else 'fail'}", "tests": tests}


def other(library: str, key: str) -> dict[str, Any]:
    """What a check of another library saw."""
    script = "peers_fastai.py" if library == "fastai" else "peers_lightning.py"
    script = "peers_more.py" if key in MORE else script
    command = [sys.executable, str(Path(__file__).with_name(script)), library, key]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        return {"result": "not checked", "seen": (done.stderr or done.stdout)[-1000:]}
    result, seen = json.loads(lines[-1].removeprefix("RESULT "))
    return {"result": result, "seen": seen}


def documented(key: str) -> dict[str, Any]:
    """What AutoGluon's documentation says of a row."""
    if key in DOCUMENTED:
        return {"result": "documented", "seen": DOCUMENTED[key]}
    return {"result": "unnamed", "seen": "its documentation names none"}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; our ticks lead to the tests that hold them."""
    lines = [f"| | {' | '.join(TITLES.values())} |", "|---|" + ":-:|" * len(TITLES)]
    for row in rows:
        cells = [cell_of(row["libraries"][library]) for library in TITLES]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell_of(cell: dict[str, Any]) -> str:
    """A sign, linked to the file of the first test where there is one."""
    sign = SIGNS.get(cell["result"], "?")
    return f"[{sign}]({cell['tests'][0].partition('::')[0]})" if cell.get("tests") else sign


if __name__ == "__main__":
    main()
