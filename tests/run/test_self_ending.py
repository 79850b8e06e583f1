"""Phases that end by themselves: against the run with their lengths written by hand, killed, on two ranks."""

import copy
import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from lightning_finetune.callbacks import FineTune, ProgressiveResizing, RunReport, TrainingDiagnosis
from lightning_finetune.engine.phases import Phase
from lightning_finetune.errors import PhaseError
from lightning_finetune.run.self_ending import Patience, length_after
from tests.foreign import ForeignNet, fitted, loader
from tests.resuming import assert_same_bits, assert_same_end, process
from tests.run.plateaus import SCRIPT, moments, phases, train
from tests.wandb_files import read_history


@pytest.mark.parametrize(
    ("values", "options", "better"),
    [
        ([3.0, 2.0, 2.0, 1.0], {}, [True, True, False, True]),
        ([3.0, 2.0, 2.5], {"mode": "max"}, [True, False, False]),
        ([3.0, 2.95, 2.8], {"min_delta": 0.1}, [True, False, True]),
        ([float("nan"), 2.0, float("nan")], {}, [False, True, False]),
    ],
)
def test_a_metric_improves_by_more_than_min_delta(values, options, better):
    patience, spec = Patience(0), Phase(9, until="val_loss", **options)
    assert [patience.see(value, spec) for value in values] == better


def test_a_fall_takes_its_epochs_after_the_plateau():
    flat = Phase(20, until="val_loss", schedule="flat_cos", cooldown=3)
    assert [length_after(flat, done) for done in (4, 16, 17, 20)] == [7, 19, None, None]
    assert length_after(Phase(20, until="val_loss"), 4) == 4
    assert Phase(20, until="val_loss", schedule="flat_cos").falls == 5  # what pct_start leaves


@pytest.mark.parametrize("schedule", ["constant", "flat_cos"])
def test_a_run_that_ends_its_phases_equals_the_run_with_those_lengths_by_hand(tmp_path, schedule):
    given, by_hand, lengths = phases(schedule), phases(schedule, by_hand=True), [4, 3]
    if schedule == "flat_cos":
        given = [
            Phase(6, "head", 1e-2, schedule=schedule, cooldown=1, until="val_loss", patience=2),
            Phase(1, "all", 1e-3),
        ]
        by_hand, lengths = [Phase(5, "head", 1e-2, schedule=schedule, cooldown=1), Phase(1, "all", 1e-3)], [5, 1]
    found, expected = train(tmp_path / "itself", given), train(tmp_path / "hand", by_hand)
    assert found["lengths"] == expected["lengths"] == lengths
    assert found["epochs"] == sum(lengths)
    assert found["rates"] == expected["rates"]
    assert_same_end(expected, found)


def test_one_cycle_is_laid_over_its_limit_and_cut(tmp_path, capsys):
    rates = train(tmp_path, phases("one_cycle"))["rates"]
    whole = FineTune([Phase(6, "head", 1e-2), Phase(6, "all", 1e-3)]).plan(4, 4)
    expected = [*whole[:16], *whole[24:36]]
    np.testing.assert_allclose(rates, [state.lrs for state in expected], rtol=1e-6)
    assert "may end before its 6 epochs" in " ".join(capsys.readouterr().out.split())


class Snapshots(pl.Callback):
    """State of module and optimizer when an epoch begins, and after each validation."""

    def __init__(self, average: EMAWeightAveraging | None = None) -> None:
        self.begun, self.validated, self.average = [], [], average

    def _state(self, trainer, module):
        checkpoint = {"state_dict": module.state_dict()}
        if self.average is not None:
            self.average.on_save_checkpoint(trainer, module, checkpoint)
        return copy.deepcopy((checkpoint, trainer.optimizers[0].state_dict()["state"]))

    def on_train_epoch_start(self, trainer, pl_module):
        self.begun.append(self._state(trainer, pl_module))

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(self._state(trainer, pl_module))


@pytest.mark.parametrize("averages", [False, True])
def test_the_next_phase_begins_with_the_best_validation(tmp_path, averages):
    average = EMAWeightAveraging(decay=0.5) if averages else None
    snapshots = Snapshots(average)
    run = train(tmp_path, phases(restore=True), extra=[*([average] if averages else []), snapshots])
    assert run["lengths"] == [4, 3]
    assert_same_bits(snapshots.validated[1], snapshots.begun[4])  # the best of the first phase was its second
    assert not torch.equal(snapshots.validated[3][0]["state_dict"]["head.weight"], run["params"]["head.weight"])
    assert_same_bits(snapshots.validated[4][0]["state_dict"], run["params"])  # and the run ends with its best


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing stopped, in processes like those of the killed ones: the number of threads is in the bits."""
    ends = {}
    for restore, options in ((False, []), (True, ["--restore"])):
        out = tmp_path_factory.mktemp("whole")
        process("tests.run.plateaus", out, *options)
        ends[restore] = torch.load(out / "rank0.pt")
    return ends


def killed(whole, tmp_path, moment, saves, restore):
    options = ["--saves", saves, *(["--restore"] if restore else [])]
    process("tests.run.plateaus", tmp_path, *options, "--kill", *moment, expect=17)
    process("tests.run.plateaus", tmp_path, *options, "--resume")
    resumed = torch.load(tmp_path / "rank0.pt")
    assert resumed["lengths"] == [4, 3]
    assert_same_end(whole[restore], resumed)


@pytest.mark.parametrize(
    ("moment", "saves", "restore"),
    [
        (("on_validation_batch_end", 8), "batch", True),  # amid the validation that ends the first phase
        (("on_train_epoch_end", 4), "validation", True),  # after it, before the phase has ended
        (("on_train_batch_start", 18), "epoch", False),  # in the second phase
    ],
)
def test_killed_around_the_end_of_a_phase_it_ends_in_the_same_bits(whole, tmp_path, moment, saves, restore):
    killed(whole, tmp_path, moment, saves, restore)


RANDOM = [
    pytest.param(moment, ("batch", "validation", "epoch")[number % 3], bool(number % 2), id=f"{number}-{moment}")
    for number, moment in enumerate(moments(20, seed=2024))
]
"""Moments, drawn once; the name of each test logs its own."""


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "saves", "restore"), RANDOM)
def test_killed_at_random_it_ends_in_the_same_bits(whole, tmp_path, moment, saves, restore):
    killed(whole, tmp_path, moment, saves, restore)


def test_two_ranks_agree(tmp_path):
    """The second rank, asked alone, would go on: both take the mean."""
    process("tests.run.plateaus", tmp_path, "--ranks", 2, "--restore")
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert [rank["lengths"] for rank in ranks] == [[4, 3]] * 2
    assert_same_end(ranks[0], ranks[1])


@pytest.mark.slow
def test_two_ranks_killed_at_the_end_of_a_phase_end_in_the_same_bits(tmp_path):
    process("tests.run.plateaus", tmp_path / "whole", "--ranks", 2, "--restore")
    process(
        "tests.run.plateaus",
        tmp_path / "killed",
        "--ranks",
        2,
        "--restore",
        "--kill",
        "on_validation_end",
        4,
        expect=17,
    )
    process("tests.run.plateaus", tmp_path / "killed", "--ranks", 2, "--restore", "--resume")
    for rank in range(2):
        whole, resumed = (torch.load(tmp_path / run / f"rank{rank}.pt") for run in ("whole", "killed"))
        assert resumed["lengths"] == [4, 3]
        assert_same_end(whole, resumed)


@pytest.mark.parametrize("step", [14, 16])
def test_resumed_with_other_steps_an_epoch_its_phases_end_after_the_same_epochs(tmp_path, step):
    """From within the epoch that ends the first phase, and from its last step."""
    every = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    train(tmp_path / "whole", phases(), extra=[every])
    resumed = train(tmp_path, phases(), resume=tmp_path / f"step={step}.ckpt", accumulate_grad_batches=2)
    assert (resumed["lengths"], resumed["epochs"]) == ([4, 3], 7)
    rates = [lrs[-1] for lrs in resumed["rates"]]
    assert rates == [1e-2] * (step == 14) + [1e-3] * 6


def test_planned_and_real_lengths_are_shown(tmp_path, capsys, caplog):
    report, diagnosis = RunReport(), TrainingDiagnosis()
    train(tmp_path, phases(), extra=[diagnosis, report, ProgressiveResizing({0: 64, 9: 96})])
    out = " ".join(capsys.readouterr().out.split())
    assert "<= 24" in out, "the plan"
    assert "1-4 (4 of 6)" in out, "the results"
    assert "Phase 1 ends after 4 of at most 6 epochs: val_loss has not improved for 2 validations" in caplog.text
    assert "phase 1 (4 of 6 epochs)" in caplog.text, "the diagnosis"
    assert set(diagnosis.findings) >= {1, 2}
    rows = (tmp_path / "phases.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in rows[1:]] == [["1", "6", "4", "16"], ["2", "6", "3", "12"]]
    page = (tmp_path / "report.html").read_text()
    assert all(words in page for words in ("up to 6", "4 of 6 epochs", "Finished after 7 of 7 epochs"))


def test_weights_and_biases_offline_holds_planned_and_real_lengths(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    train(tmp_path, phases(), logger=WandbLogger(project="tests", save_dir=tmp_path, offline=True), log_every_n_steps=4)
    wandb.finish()
    history = read_history(next(tmp_path.glob("wandb/offline-run-*/*.wandb")))
    [(_, path)] = history["phases.path"]
    table = json.loads(next(tmp_path.glob(f"wandb/offline-run-*/files/{path}")).read_text())
    assert table["columns"][:4] == ["phase", "planned epochs", "epochs", "steps"]
    assert [row[:4] for row in table["data"]] == [[1, 6, 4, 16], [2, 6, 3, 12]]
    assert [value for _, value in history["val_loss"]] == SCRIPT[:7], "epochs as they were"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "`patience`"),
        ({"min_delta": -1.0}, "`min_delta`"),
        ({"mode": "up"}, "`mode`"),
        ({"epochs": None}, "`epochs`"),
        ({"until": None, "restore_best": True}, "`restore_best`"),
        ({"cooldown": 2}, "`cooldown`"),
        ({"cooldown": 7, "schedule": "flat_cos"}, "`cooldown`"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(PhaseError, match=message):
        Phase(**{"epochs": 6, "until": "val_loss", **options})


def test_a_metric_that_is_not_logged_is_named_with_those_that_are(tmp_path):
    with pytest.raises(PhaseError, match=r"log 'val_acc'.*it logs \['train_loss', 'val_loss'\]"):
        train(tmp_path, [Phase(3, until="val_acc")])
    with pytest.raises(PhaseError, match="no validation"):
        fitted(tmp_path, FineTune([Phase(3, until="val_loss")]))


def test_the_limit_of_the_trainer_is_the_sum_of_the_limits_and_stays(tmp_path):
    with pytest.raises(PhaseError, match="last 12 epochs"):
        train(tmp_path, phases(), max_epochs=7)
    fine_tune = FineTune(phases())
    assert fine_tune.epochs == 12


def test_each_phase_has_its_weight_decay(tmp_path):
    class Decays(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[list[float]] = []

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.seen.append([group["weight_decay"] for group in optimizer.param_groups])

    class Two(ForeignNet):
        def configure_optimizers(self):
            kept = [param for param in self.parameters() if param.ndim < 2]
            rest = [param for param in self.parameters() if param.ndim >= 2]
            groups = [{"params": rest, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=1e-3)

    decays = Decays()
    given = [Phase(1, "head", weight_decay=0.2), Phase(1, "all"), Phase(1, "all", weight_decay=0.0)]
    fitted(tmp_path, FineTune(given), decays, module=Two(), data=loader(8))
    assert [sorted(set(seen)) for seen in decays.seen] == [[0.0, 0.2], [0.0, 0.05], [0.0]]


def test_a_resumed_run_that_no_longer_asks_for_an_end_trains_all_its_epochs(tmp_path):
    given = [Phase(5, "head", 1e-2, until="val_loss", min_delta=1e9, patience=1), Phase(1, "all", 1e-3)]
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=14)
    data = (loader(), loader(16))
    assert fitted(tmp_path, FineTune(given), saver, data=data, enable_checkpointing=True).global_step == 18
    rest = FineTune([Phase(4, "all", 1e-3)])
    assert fitted(tmp_path / "rest", rest, data=data, ckpt_path=tmp_path / "step=14.ckpt").global_step == 24
