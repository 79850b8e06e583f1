import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_finetune.callbacks import FineTune, TrainingDiagnosis
from lightning_finetune.engine.diagnosis import diagnose, read_csv
from lightning_finetune.engine.phases import Phase
from tests.cli.launching import rows
from tests.foreign import ForeignNet, fitted, loader


def fit(tmp_path, callbacks, module=None, resume=None, **options):
    pl.seed_everything(2, verbose=False)
    return fitted(
        tmp_path,
        *callbacks,
        module=module,
        data=(loader(96, shuffle=True), loader(32, seed=1)),
        ckpt_path=resume,
        **options,
    )


def names(diagnosis: TrainingDiagnosis) -> set[str]:
    return {finding.name for found in diagnosis.findings.values() for finding in found if finding.fault}


def test_a_foreign_module_is_told_of_its_rate(tmp_path, caplog):
    pl.seed_everything(2, verbose=False)  # the modules are made before a run seeds
    low, high = TrainingDiagnosis(), TrainingDiagnosis()
    fit(tmp_path / "low", [low], ForeignNet("sgd", lr=1e-6), max_epochs=3)
    fit(tmp_path / "high", [high], ForeignNet("sgd", lr=300.0), max_epochs=3)
    assert names(low) <= {"learning rate too low", "dead head"}
    assert names(low)
    assert names(high) <= {"learning rate too high", "non-finite loss"}
    assert names(high)
    assert "Diagnosis of the run: learning rate too high" in caplog.text or "non-finite" in caplog.text
    assert [row["finding"] for row in rows(tmp_path / "low/diagnosis.csv")] == list(names(low))


def test_a_phase_is_judged_by_its_own_curves(tmp_path):
    diagnosis = TrainingDiagnosis()
    phases = FineTune([Phase(4, "all", 2e-2), Phase(2, "all", 1e3, div=1.0)])
    fit(tmp_path, [phases, diagnosis])
    assert "learning rate too high" not in {finding.name for finding in diagnosis.findings[1]}
    assert {finding.name for finding in diagnosis.findings[2]} & {"learning rate too high", "non-finite loss"}


def test_a_healthy_run_in_phases_is_not_accused(tmp_path):
    """The later phases have little left to learn, and the first one ends while it learns: neither is a fault."""
    diagnosis = TrainingDiagnosis()
    phases = FineTune([Phase(3, "head", 3e-2), Phase(8, "all", (3e-3, 3e-2)), Phase(3, "all", 1e-3)])
    fit(tmp_path, [phases, diagnosis])
    assert names(diagnosis) == set()


def test_a_resumed_run_is_judged_as_the_whole(tmp_path):
    def callbacks():
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        return [FineTune([Phase(4, "all", 1e-6)]), TrainingDiagnosis(), keep]

    whole, again = callbacks(), callbacks()
    fit(tmp_path, whole, enable_checkpointing=True)
    fit(tmp_path, again, enable_checkpointing=True, resume=tmp_path / "epoch=1.ckpt")
    assert again[1].findings == whole[1].findings
    assert names(again[1])


@pytest.mark.parametrize("lr", [1e-6, 1e-2])
def test_the_command_says_the_same_of_the_csv(tmp_path, lr):
    diagnosis = TrainingDiagnosis()
    logger = CSVLogger(tmp_path)
    fit(tmp_path, [diagnosis], ForeignNet(lr=lr), max_epochs=3, logger=logger, log_every_n_steps=1)
    read = diagnose(read_csv(f"{logger.log_dir}/metrics.csv"))
    assert [finding.name for finding in read] == [finding.name for finding in diagnosis.findings[0]]


def test_a_run_of_a_few_steps_is_not_judged_and_its_peak_is_missed(tmp_path):
    """One step an epoch, one epoch a phase: the advice is more steps, not another rate."""
    diagnosis = TrainingDiagnosis()
    phases = FineTune([Phase(1, "head", 1e-3), Phase(1, "all", (1e-4, 1e-3))])
    fit(tmp_path, [phases, diagnosis], limit_train_batches=1)
    found = {key: [finding.name for finding in findings] for key, findings in diagnosis.findings.items()}
    assert found == {1: ["the peak is never reached"], 2: ["the peak is never reached"], 0: ["too few steps to judge"]}
    with (tmp_path / "diagnosis.csv").open() as file:
        assert "at least three steps" in file.read()


def test_an_unfreezing_that_spoils_the_run_is_named(tmp_path):
    """The head fits, then all layers train at a rate that keeps the loss finite and the network lost."""
    diagnosis = TrainingDiagnosis()
    phases = FineTune([Phase(6, "head", 3e-2), Phase(2, "all", 0.3, div=1.0)])
    fit(tmp_path, [phases, diagnosis])
    assert names(diagnosis) & {"unfreezing made it worse", "learning rate too high"}
    assert "too many epochs" not in names(diagnosis)
