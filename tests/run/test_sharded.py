"""Parameters that are sharded between two processes are frozen and unfrozen as those of DDP."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.foreign import ForeignNet
from tests.resuming import ROOT

pytestmark = pytest.mark.slow


def run(out: Path, which: str, *more: str, expect: int = 0) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.run.sharded", str(out), which, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert (done.returncode == 0) == (expect == 0), done.stderr[-3000:]
    return done.stdout + done.stderr


def test_two_unfreezings_with_sharded_parameters_are_those_of_ddp_and_load_in_one_process(tmp_path: Path):
    run(tmp_path, "ddp")
    run(tmp_path, "sharded")
    whole, sharded = (torch.load(tmp_path / f"{which}.ckpt", weights_only=False) for which in ("ddp", "sharded"))
    module = ForeignNet(norm=False, dropout=0.0)
    module.load_state_dict(sharded["state_dict"])
    for name, param in module.state_dict().items():
        assert torch.allclose(param, whole["state_dict"][name], atol=1e-5), name
    states = [file["optimizer_states"][0] for file in (whole, sharded)]
    assert [len(state["param_groups"]) for state in states] == [1, 1]
    for slot, state in states[0]["state"].items():
        assert torch.allclose(states[1]["state"][slot]["exp_avg"], state["exp_avg"], atol=1e-5)
    for step in (2, 3, 8):  # within the first phase, at its end, within the last
        again = tmp_path / f"from{step}"
        run(again, "sharded", str(tmp_path / f"sharded-step={step}.ckpt"))
        resumed = torch.load(again / "sharded.ckpt", weights_only=False)
        assert resumed["global_step"] == sharded["global_step"]
        for name, param in resumed["state_dict"].items():
            assert torch.equal(param, sharded["state_dict"][name]), name


def test_a_run_resumes_from_a_folder_of_shards_some_of_which_were_never_stepped(tmp_path: Path):
    run(tmp_path, "folder")
    run(tmp_path / "again", "folder", str(tmp_path / "folder-step=5.ckpt"))
    whole, again = (torch.load(place / "weights0.pt", weights_only=True) for place in (tmp_path, tmp_path / "again"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(again[name], param) for name, param in whole.items())
