import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image

from lightning_finetune.callbacks import FineTune, PlotRun
from lightning_finetune.engine.phases import Phase
from tests.foreign import Fails, ForeignNet, Probe, fitted, loader, quiet_trainer

PHASES = [Phase(1, "head", 1e-2), Phase(2, "all", (1e-3, 1e-2))]


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(float(trainer.callback_metrics["train_loss"]))


def fit(tmp_path, plot: PlotRun, *extra: Callback, resume=None, **kwargs) -> None:
    torch.manual_seed(0)
    fitted(
        tmp_path,
        FineTune(PHASES),
        plot,
        *extra,
        data=(loader(), loader(16, seed=1)),
        ckpt_path=resume,
        enable_checkpointing=bool(extra),
        max_epochs=3,
        **kwargs,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    plot, probe, losses = PlotRun(), Probe(), Losses()
    fit(
        folder,
        plot,
        probe,
        losses,
        ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True),
    )
    return folder, plot, probe, losses


def test_the_history_is_that_of_the_run(run) -> None:
    _, plot, probe, losses = run
    assert plot.history.steps == list(range(18))
    recorded = list(zip(*plot.history.rates.values(), strict=True))
    assert recorded == [tuple(lrs) for lrs in probe.lrs], "the rates that each step was made with"
    assert list(plot.history.rates)[-1] == "head"
    assert plot.history.losses == pytest.approx(losses.seen), "those of the module"
    assert [step for step, _ in plot.history.measured["val_loss"]] == [6, 12, 18], "after the steps that it followed"


def test_leaves_a_picture(run) -> None:
    with Image.open(run[0] / "run.png") as picture:
        picture.load()
        assert min(picture.size) > 400


def test_a_resumed_run_draws_the_whole(run, tmp_path) -> None:
    folder, plot, _, _ = run
    resumed = PlotRun()
    fit(tmp_path, resumed, resume=folder / "epoch=0.ckpt")
    assert resumed.history.steps == plot.history.steps
    assert resumed.history.rates == plot.history.rates
    assert len(resumed.history.measured["val_loss"]) == 3


def test_accumulated_batches_are_one_step_at_the_scale_of_a_batch(tmp_path) -> None:
    plot, losses = PlotRun(), Losses()
    fit(tmp_path, plot, losses, accumulate_grad_batches=2)
    assert plot.history.steps == list(range(9))
    assert plot.history.losses == pytest.approx(losses.seen[::2])


def test_a_run_that_fails_leaves_its_picture(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, PlotRun(), Fails(3, RuntimeError("broken")))
    assert (tmp_path / "run.png").is_file()


def test_works_without_phases(tmp_path) -> None:
    plot = PlotRun()
    quiet_trainer(tmp_path, callbacks=[plot], max_epochs=1).fit(ForeignNet(), loader(), loader(16, seed=1))
    assert plot.history.steps == list(range(6))
    assert (tmp_path / "run.png").is_file()
