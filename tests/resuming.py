"""Runs in processes of their own, and what they end with, to the bit."""

import subprocess
from pathlib import Path

import torch

from tests import forking

ROOT = Path(__file__).parents[1]


def process(script: str, out: Path, *options: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which ends as expected."""
    done = forking.run("-m", script, out, *options)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def run(out: Path, *options: object, expect: int = 0) -> dict:
    process("tests.runs", out, *options, expect=expect)
    return torch.load(out / "rank0.pt") if expect == 0 else {}


def assert_same_end(one: dict, other: dict) -> None:
    """Of two runs, to the bit."""
    for name in ("params", "optimizer"):
        assert_same_bits(one[name], other[name], name)


def assert_same_bits(one: object, other: object, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_bits(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_bits(a, b, f"{where}/{index}")
    else:
        assert one == other, where
