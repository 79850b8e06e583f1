import dataclasses

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lightning_finetune.callbacks import FineTune, OneCycle
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.range_test import MOST_HEAD, allowed
from lightning_finetune.errors import FinetuneError, PhaseError
from lightning_finetune.tasks import ImageClassifier
from tests.foreign import Probe, Untrained, Worse, fitted, loader

PHASES = [Phase(1, "head", 1e-2), Phase(2, 2, (None, 1e-2)), Phase(1, "all", (1e-5, 1e-2))]


def fit(tmp_path, *callbacks, module=None, **options):
    probe = Probe()
    trainer = fitted(tmp_path, *callbacks, probe, module=module, data=(loader(), loader(16, seed=1)), **options)
    return trainer, probe


def test_the_run_is_the_plan_that_was_shown_before_it(tmp_path):
    """Each step's rates, momentum and trained layers are those that ``plan`` gives before any training."""
    fine_tune = FineTune(PHASES)
    plan = fine_tune.plan(6, num_groups=4)
    _, probe = fit(tmp_path, fine_tune)
    assert len(plan) == len(probe.lrs) == 24
    np.testing.assert_allclose(probe.lrs, [state.lrs for state in plan], rtol=1e-9)
    np.testing.assert_allclose(probe.momentum, [state.momentum for state in plan], rtol=1e-9)
    parts = [sorted({name.split(".")[0] for name in names}) for names in probe.trainable]
    assert [len(names) for names in parts] == [state.trained for state in plan]


def test_the_numbers_make_the_lessons_recipe():
    fine_tune = FineTune(head_epochs=1, full_epochs=2, lr=6e-3, lr_ratio=5, recipe="lessons")
    plan = fine_tune.plan(40, num_groups=3)
    assert len(plan) == 120
    assert max(state.lrs[-1] for state in plan[:40]) == pytest.approx(6e-3)
    assert max(state.lrs[-1] for state in plan[40:]) == pytest.approx(1.2e-3)
    assert max(state.lrs[0] for state in plan[40:]) == pytest.approx(1.2e-5)


# -- the number of epochs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_epochs": 4}, {"max_epochs": -1}, {"max_steps": 24}, {"max_steps": 99}])
def test_it_says_how_long_the_run_is_when_the_user_did_not(tmp_path, options):
    trainer, probe = fit(tmp_path, FineTune(PHASES), **options)
    assert len(probe.lrs) == 24
    assert trainer.current_epoch == 4


@pytest.mark.parametrize("epochs", [3, 5])
def test_another_number_of_epochs_is_refused_before_the_first_batch(tmp_path, epochs):
    with pytest.raises(PhaseError, match=rf"4 epochs \(1 \+ 2 \+ 1\), but max_epochs={epochs}"):
        fit(tmp_path, FineTune(PHASES), module=Untrained(), max_epochs=epochs)


@pytest.mark.parametrize(("steps", "message"), [(23, "24 optimizer steps, but max_steps=23"), (18, "never be reached")])
def test_too_few_steps_are_refused_before_the_first_batch(tmp_path, steps, message):
    with pytest.raises(PhaseError, match=message):
        fit(tmp_path, FineTune(PHASES), module=Untrained(), max_steps=steps)


def test_accumulation_counts_in_optimizer_steps(tmp_path):
    _, probe = fit(tmp_path, FineTune(PHASES), accumulate_grad_batches=4)
    plan = FineTune(PHASES).plan(2, num_groups=4)
    np.testing.assert_allclose(probe.lrs, [state.lrs for state in plan], rtol=1e-9)


@pytest.mark.parametrize("phases", [[], [Phase(1), Phase(None)], [Phase(None)]])
def test_phases_without_a_length_are_refused_when_made(phases):
    with pytest.raises(PhaseError, match="number of epochs"):
        FineTune(phases)


def test_fast_dev_run_needs_no_care(tmp_path):
    _, probe = fit(tmp_path, FineTune(PHASES), fast_dev_run=2)
    assert len(probe.lrs) == 2


def test_one_cycle_beside_it_is_refused(tmp_path):
    with pytest.raises(PhaseError, match=r"(FineTune and OneCycle|OneCycle and FineTune) both set \['lr'\]. Drop one"):
        fit(tmp_path, FineTune(PHASES), OneCycle(1e-2), module=Untrained())


def test_a_number_of_groups_the_model_has_not_is_refused_before_the_first_batch(tmp_path):
    with pytest.raises(PhaseError, match="Phase 2 trains 9 layer groups, but the model has 4"):
        fit(tmp_path, FineTune([Phase(1), Phase(1, 9)]), module=Untrained())


# -- what it says ------------------------------------------------------------------------------------------------------


def test_it_shows_the_plan_first_and_each_phases_results_last(tmp_path, capsys):
    fine_tune = FineTune(PHASES)
    trainer, _ = fit(tmp_path, fine_tune)
    shown = capsys.readouterr().out
    plan, results = shown.index("Plan of the run"), shown.index("Phases and their results")
    assert plan < results
    assert [set(metrics) >= {"train_loss", "val_loss"} for metrics in fine_tune.results] == [True] * 3
    assert fine_tune.results[-1]["val_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert f"{fine_tune.results[0]['val_loss']:.4f}"[:5] in shown[results:]


def test_results_survive_a_resume(tmp_path):
    first, second = FineTune(PHASES), FineTune(PHASES)
    trainer, _ = fit(tmp_path, first)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    fitted(tmp_path, second, ckpt_path=tmp_path / "end.ckpt")
    assert second.results == first.results


def test_a_run_that_early_stopping_cut_says_so(tmp_path):
    stopping = EarlyStopping("worse", patience=1)
    with pytest.warns(UserWarning, match="last phase begins at epoch 4") as said:
        fit(tmp_path, FineTune(PHASES), stopping, module=Worse())
    assert any("in phase 2 of 3: 12 of 24 planned steps" in str(warning.message) for warning in said)


def test_a_cycle_that_was_cut_in_the_last_phase_says_so(tmp_path):
    stopping = EarlyStopping("worse", patience=1)
    with pytest.warns(UserWarning, match="in phase 1 of 1: 12 of 24 planned steps"):
        fit(tmp_path, FineTune([Phase(4, "all")]), stopping, module=Worse())


def test_find_moves_the_recipes_rates_together_to_where_the_curve_allows_them(tmp_path):
    """This module says nothing of its head, so that the head trains first."""
    fine_tune = FineTune(2, find=True)
    _, probe = fit(tmp_path, fine_tune)
    head, full = fine_tune.found[0], fine_tune.found[1]
    assert head.lr == pytest.approx(allowed(3e-3, head.curve, MOST_HEAD)[0])
    assert full.lr[1] == pytest.approx(allowed(3e-3, full.curve)[0])
    assert full.lr[1] / full.lr[0] == pytest.approx(30)
    assert max(probe.lrs[-6:], key=max)[-1] == pytest.approx(full.lr[1], rel=0.1)


def test_find_leaves_an_upper_rate_that_is_given(tmp_path):
    for fine_tune, high in (
        (FineTune(2, lr=6e-3, find=True), 6e-3),
        (FineTune([Phase(1, "all", ("find", 7e-4))]), 7e-4),
    ):
        fit(tmp_path, fine_tune)
        found = fine_tune.found[max(fine_tune.found)]
        assert found.lr[1] == pytest.approx(high)
        assert found.lr[0] < high


# -- configuration files -----------------------------------------------------------------------------------------------

CONFIG = """
tune:
  phases:
  - {epochs: 2, train: head, lr: find}
  - {epochs: 1, train: 2, lr: [null, 0.003], pct_start: 0.3}
  - {epochs: 4, train: all, lr: [find, 0.0003], size: 224, moms: [0.9, 0.8, 0.9]}
  - {epochs: 1, train: all, lr: [1.0e-06, 0.0001], schedule: flat_cos}
  - {epochs: 1, train: all, lr: [0.1, 0.2, 0.3, 0.4], moms: null}
  train_norm: true
"""
MEANT = [
    Phase(2, "head", "find"),
    Phase(1, 2, (None, 3e-3), pct_start=0.3),
    Phase(4, "all", ("find", 3e-4), size=224, moms=(0.9, 0.8, 0.9)),
    Phase(1, "all", (1e-6, 1e-4), schedule="flat_cos"),
    Phase(1, "all", [0.1, 0.2, 0.3, 0.4], moms=None),
]


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(FineTune, "tune")
    return parser


def read(text: str, tmp_path) -> FineTune:
    (tmp_path / "run.yaml").write_text(text)
    arguments = parser().parse_args(["--config", str(tmp_path / "run.yaml")])
    return parser().instantiate_classes(arguments).tune


def meaning(phase: Phase) -> dict:
    """A phase in which it does not matter whether a pair was written as a list or a tuple."""
    values = dataclasses.asdict(phase).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


def test_phases_are_written_in_yaml(tmp_path):
    fine_tune = read(CONFIG, tmp_path)
    assert [meaning(phase) for phase in fine_tune._phases] == [meaning(phase) for phase in MEANT]
    assert fine_tune.train_norm is True
    given, meant = (FineTune(phases).plan(6, num_groups=4) for phases in (fine_tune._phases, MEANT))
    assert list(given) == list(meant)


def test_a_printed_configuration_reads_back_as_the_same_phases(tmp_path, capsys):
    once = read(CONFIG, tmp_path)
    with pytest.raises(SystemExit):
        parser().parse_args(["--config", str(tmp_path / "run.yaml"), "--print_config"])
    printed = capsys.readouterr().out
    assert len(yaml.safe_load(printed)["tune"]["phases"]) == 5
    assert read(printed, tmp_path)._phases == once._phases


def test_numbers_are_given_on_the_command_line():
    words = [
        "--tune.head_epochs=1",
        "--tune.full_epochs=2",
        "--tune.lr=0.01",
        "--tune.sizes=[128,224]",
        "--tune.find=true",
        "--tune.recipe=lessons",
    ]
    fine_tune = parser().instantiate_classes(parser().parse_args(words)).tune
    assert fine_tune.epochs == 6
    assert [phase.lr for phase in fine_tune._phases][:2] == ["find", ("find", pytest.approx(1e-3))]


def test_a_loss_that_is_not_finite_names_phase_rate_and_batch(tmp_path):
    class Bad(ImageClassifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.current_epoch == 2 and batch_idx == 1 else loss

    batches = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))] * 3
    task = Bad("test_resnet", num_classes=2, weights=False)
    with pytest.raises(FinetuneError, match=r"batch 1 of epoch 3 \(phase 2 of 2, layer groups .* at learning rate"):
        fitted(
            tmp_path,
            FineTune([Phase(1, "head", 1e-3), Phase(2, "all", (1e-4, 1e-3))]),
            module=task,
            data=DataLoader(batches, batch_size=None),
        )
