"""Two real processes through two unfreezings: what thaws after DDP wrapped the model is reduced as well."""

from pathlib import Path

import pytest
import torch

from tests.resuming import assert_same_bits, process

FLOAT = 4  # bytes


def run(out: Path, *options: object) -> tuple[list[dict], str]:
    """What each rank wrote, and what was shown; the run itself fails where replicas differ by a bit."""
    done = process("tests.runs", out, *options)
    return [torch.load(file) for file in sorted(out.glob("rank*.pt"))], done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Three phases, without norm layers, whose statistics are of half the batch each."""
    return run(tmp_path_factory.mktemp("two"), "--strategy", "ddp", "--devices", 2, "--batch-size", 4, "--plain")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"), "--batch-size", 8, "--plain")


def test_replicas_are_bitwise_equal(two):
    (first, second), _ = two
    assert_same_bits(first["params"], second["params"])


def test_two_processes_are_one_with_the_doubled_batch(two, one):
    (first, _), _ = two
    [alone], _ = one
    for name, value in first["params"].items():
        torch.testing.assert_close(value, alone["params"][name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_accumulated_gradients_of_two_processes_are_those_of_one(tmp_path):
    (first, _), _ = run(tmp_path, "--strategy", "ddp", "--devices", 2, "--batch-size", 4, "--plain", "--accumulate", 3)
    (tmp_path / "alone").mkdir()
    [alone], _ = run(tmp_path / "alone", "--batch-size", 8, "--plain", "--accumulate", 3)
    for name, value in first["params"].items():
        torch.testing.assert_close(value, alone["params"][name], rtol=0, atol=1e-6)


def test_only_what_trains_is_reduced(two):
    """Bytes a phase: four for each trainable number at each of six steps."""
    (first, second), _ = two
    sizes = dict.fromkeys(("stem", "body", "neck", "head"), 0)
    for name, value in first["params"].items():
        sizes[name.split(".")[0]] += value.numel()
    head, neck, every = sizes["head"], sizes["head"] + sizes["neck"], sum(sizes.values())
    expected = {epoch: FLOAT * 6 * numbers for epoch, numbers in enumerate([head, neck, every, every])}
    assert first["sent"] == second["sent"] == expected


def test_unused_parameters_are_not_looked_for(two):
    assert not any(rank["find_unused"] for rank in two[0])


def test_tables_are_shown_once(two):
    _, shown = two
    assert shown.count("Plan of the run") == 1
    assert shown.count("Phases and their results") == 1


def test_spawned_processes_with_norm_layers_dropout_and_two_callbacks_agree(tmp_path):
    """The run compares the replicas itself, as only rank 0 comes back from spawned processes."""
    options = ["--which", "apart", "--optimizer", "adamw", "--shuffle"]
    [first], _ = run(tmp_path, *options, "--strategy", "ddp_spawn", "--devices", 2)
    assert set(first["params"]) >= {"stem.0.weight", "stem.1.running_mean", "head.bias"}
