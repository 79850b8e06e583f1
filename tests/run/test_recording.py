"""What is recorded of a run is what the optimizer, the module and the batches had."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, OneCycle, PlotRun, TrainingDiagnosis
from lightning_finetune.engine.phases import Phase
from tests.foreign import ForeignNet, Probe, fitted, loader, quiet_trainer

PHASES = [Phase(1, "head", 1e-2, size=32), Phase(1, "all", (1e-3, 1e-2), size=64)]


class Sees(ForeignNet):
    """Notes the images that its layers get."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x):
        if self.training:
            self.sizes.append(tuple(x.shape[-2:]))
        return super().forward(x)


def fit(tmp_path, *callbacks: Callback, module=None, resume=None, **options):
    torch.manual_seed(0)
    fitted(
        tmp_path,
        *callbacks,
        module=module,
        data=(loader(), loader(16, seed=1)),
        ckpt_path=resume,
        **{"max_epochs": 2, **options},
    )


def test_momentum_sizes_and_what_trains_are_those_of_each_step(tmp_path) -> None:
    plot, probe, module = PlotRun(), Probe(), Sees()
    fit(tmp_path, FineTune(PHASES, min_size=32), plot, probe, module=module)
    history = plot.history
    assert history.momentum == probe.momentum
    assert len(set(history.momentum)) == 5, "it cycles"
    assert history.sizes == module.sizes[-12:] == [(32, 32)] * 6 + [(64, 64)] * 6, "after the trial of each size"
    trains = [[any(name.startswith(layer) for name in names) for names in probe.trainable] for layer in history.trained]
    assert list(history.trained.values()) == trains
    assert history.epochs == [0, 6]


def test_norm_layers_that_train_are_a_share_of_a_frozen_group(tmp_path) -> None:
    plot = PlotRun()
    fit(tmp_path, FineTune([Phase(2, "head", 1e-2)], train_norm=True), plot)
    assert set(plot.history.trained["stem"]) == {16 / (16 + 8 * 27 + 8)}


def test_what_somebody_else_does_is_seen(tmp_path) -> None:
    class Meddles(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 8:
                pl_module.stem.requires_grad_(False)
                trainer.optimizers[0].param_groups[-1].update(lr=0.5, betas=(0.1, 0.9))

    plot = PlotRun()
    with pytest.warns(UserWarning, match=r"somebody changed it to 0\.5"):
        fit(tmp_path, OneCycle(1e-2), Meddles(), plot)
    assert plot.history.trained["stem"] == [1.0] * 8 + [0.0] * 4
    assert (plot.history.rates["head"][8], plot.history.momentum[8]) == (0.5, 0.1)


def test_layer_groups_are_named_where_rates_are_not_split(tmp_path) -> None:
    class TwoGroups(ForeignNet):
        def configure_optimizers(self):
            head = list(self.head.parameters())
            rest = [param for name, param in self.named_parameters() if not name.startswith("head")]
            return torch.optim.SGD([{"params": rest, "lr": 0.01}, {"params": head}], lr=0.1)

    plot = PlotRun()
    fit(tmp_path, GradualUnfreezing({0: "head", 1: "all"}), plot, module=TwoGroups())
    assert list(plot.history.rates) == ["group 0", "group 1"]
    assert plot.history.trained["stem"] == [0.0] * 6 + [1.0] * 6


def test_one_record_serves_all(tmp_path) -> None:
    plot, diagnosis = PlotRun(), TrainingDiagnosis()
    fit(tmp_path, plot, diagnosis)
    assert plot.history is diagnosis.history
    assert plot.history.steps == list(range(12))
    assert [step for step, _ in plot.history.measured["val_loss"]] == [6, 12]


def test_a_resumed_run_goes_on_with_the_record_whoever_kept_it(tmp_path) -> None:
    saved = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole = PlotRun()
    fit(tmp_path, FineTune(PHASES, min_size=32), whole, TrainingDiagnosis(), saved, enable_checkpointing=True)
    for name, epochs in (("step=6", [0, 6]), ("step=9", [0, 6])):
        again = TrainingDiagnosis()
        with pytest.warns(UserWarning, match="PlotRun"):  # Lightning says that it is missing
            fit(tmp_path, FineTune(PHASES, min_size=32), again, resume=tmp_path / f"{name}.ckpt")
        assert again.history.steps == list(range(12))
        assert again.history.trained == whole.history.trained
        assert again.history.sizes == whole.history.sizes
        assert again.history.epochs == epochs


def test_a_new_run_begins_anew_and_a_longer_one_goes_on(tmp_path) -> None:
    plot = PlotRun()
    fit(tmp_path, plot)
    fit(tmp_path, plot, max_epochs=1)
    assert plot.history.steps == list(range(6))
    trainer = quiet_trainer(tmp_path, callbacks=[plot], max_epochs=1)
    module = ForeignNet()
    trainer.fit(module, loader(), loader(16, seed=1))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), loader(16, seed=1))
    assert plot.history.steps == list(range(12))
