"""One cycle in anybody's Trainer: rates and momentum probed at each optimizer step."""

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch.utils.data import DataLoader, IterableDataset

from lightning_finetune.callbacks import OneCycle
from lightning_finetune.errors import PhaseError, UnsupportedError
from tests.foreign import ForeignNet, Probe, Scheduled, Untrained, fitted, images, loader, probed, quiet_trainer

DIV, DIV_FINAL, SHARE = 25, 1e5, 0.25


def cycle(total: int, start: float, peak: float, end: float, share: float = SHARE) -> np.ndarray:
    """The closed form of fastai, on its own."""
    position = np.arange(total) / total
    rise = start + (1 - np.cos(np.pi * position / max(share, 1e-12))) / 2 * (peak - start)
    fall = peak + (1 - np.cos(np.pi * (position - share) / (1 - share))) / 2 * (end - peak)
    return np.where(position < share, rise, fall)


def rates(total: int, peak: float, share: float = SHARE) -> np.ndarray:
    return cycle(total, peak / DIV, peak, peak / DIV_FINAL, share)


def fit(tmp_path, *callbacks, **options) -> Probe:
    return probed(tmp_path, *(callbacks or [OneCycle(1e-2)]), **options)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_each_step_has_fastais_rates_and_momentum(tmp_path, optimizer):
    probe = fit(tmp_path, OneCycle((1e-5, 1e-2)), module=ForeignNet(optimizer), max_epochs=3)
    assert len(probe.lrs) == 18
    for group, peak in enumerate([1e-5, 1e-4, 1e-3, 1e-2]):
        np.testing.assert_allclose([lrs[group] for lrs in probe.lrs], rates(18, peak), rtol=1e-6)
    np.testing.assert_allclose(probe.momentum, cycle(18, 0.95, 0.85, 0.95), rtol=1e-6)


class Endless(IterableDataset):
    """Batches without a length."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self):
        yield from zip(*(part.split(1) for part in images(self.batches).tensors), strict=True)

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 6),  # six batches: a step of four and one of two
        ({"max_epochs": 3, "limit_train_batches": 2}, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 6),
        ({"max_steps": 10}, 10),
        ({"max_steps": 4, "max_epochs": 9}, 4),
        ({"max_steps": 5, "accumulate_grad_batches": 2}, 5),
        ({"max_epochs": -1, "max_steps": 8}, 8),
        ({"max_epochs": 2, "max_steps": 99}, 12),
        ({"max_epochs": 1, "overfit_batches": 3}, 3),
        ({"max_epochs": 2, "val_check_interval": 2}, 12),
        # data without a length
        ({"batches": 7, "max_steps": 20}, 20),
        ({"batches": 50, "max_steps": 20}, 20),
        ({"batches": 50, "max_epochs": 2, "limit_train_batches": 4}, 8),
    ],
)
def test_the_cycle_ends_with_the_run(tmp_path, options, steps):
    trainer = {name: value for name, value in options.items() if name != "batches"}
    probe = fit(tmp_path, data=Endless(options["batches"]).loader() if "batches" in options else None, **trainer)
    np.testing.assert_allclose([lrs[-1] for lrs in probe.lrs], rates(steps, 1e-2), rtol=1e-6)


def test_the_cycle_ends_with_a_run_whose_accumulation_changes(tmp_path):
    """Epochs of 6, 3 and 2 steps; Lightning's own estimate is of 18."""
    accumulation = GradientAccumulationScheduler({0: 1, 1: 2, 2: 4})
    probe = fit(tmp_path, OneCycle(1e-2), accumulation, max_epochs=3)
    np.testing.assert_allclose([lrs[-1] for lrs in probe.lrs], rates(11, 1e-2), rtol=1e-6)


def test_data_without_a_length_and_without_max_steps_is_refused(tmp_path):
    with pytest.raises(PhaseError, match="max_steps"):
        fit(tmp_path, data=Endless(7).loader(), max_epochs=2)


def test_each_span_has_a_cycle_of_its_own(tmp_path):
    probe = fit(tmp_path, OneCycle(1e-2, epochs=[1, 2]), max_epochs=3)
    expected = [*rates(6, 1e-2), *rates(12, 1e-2)]
    np.testing.assert_allclose([lrs[-1] for lrs in probe.lrs], expected, rtol=1e-6)


def test_spans_that_do_not_fill_the_run_are_refused(tmp_path):
    with pytest.raises(PhaseError, match=r"\[1, 2\] are 3, but max_epochs=4"):
        fit(tmp_path, OneCycle(1e-2, epochs=[1, 2]), max_epochs=4)


def test_flat_cos_is_flat_and_leaves_momentum_alone(tmp_path):
    probe = fit(tmp_path, OneCycle(1e-2, schedule="flat_cos"), max_epochs=2)
    lrs = np.array([lrs[-1] for lrs in probe.lrs])
    np.testing.assert_allclose(lrs[:10], 1e-2)  # to step 9 of 12
    assert (np.diff(lrs[9:]) < 0).all()
    assert set(probe.momentum) == {0.9}


def test_momentum_is_left_alone_on_request(tmp_path):
    assert set(fit(tmp_path, OneCycle(1e-2, moms=None), max_epochs=1).momentum) == {0.9}


@pytest.mark.parametrize(
    ("max_lr", "peaks"),
    [
        ((None, 1e-2), [1e-3, 1e-3, 1e-3, 1e-2]),
        ([1e-4, 2e-4, 3e-4, 4e-4], [1e-4, 2e-4, 3e-4, 4e-4]),
        (5e-3, [5e-3] * 4),
    ],
)
def test_each_group_peaks_at_its_rate(tmp_path, max_lr, peaks):
    probe = fit(tmp_path, OneCycle(max_lr, pct_start=0.5), max_epochs=1)
    np.testing.assert_allclose(probe.lrs[3], peaks, rtol=1e-6)


def test_a_list_of_rates_that_fits_no_groups_is_refused_before_the_first_batch(tmp_path):
    with pytest.raises(PhaseError, match="4 numbers"):
        fit(tmp_path, OneCycle([1e-3] * 3), module=Untrained(), max_epochs=1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_shortest_runs_and_any_share_train(tmp_path, share):
    """``OneCycleLR`` divides by zero where the share of the steps is one step."""
    for steps in (1, 2, 10):
        probe = fit(tmp_path, OneCycle(1e-2, pct_start=share), max_steps=steps)
        if share < 1:
            np.testing.assert_allclose([lrs[-1] for lrs in probe.lrs], rates(steps, 1e-2, share), rtol=1e-6)
        assert len(probe.lrs) == steps


def test_a_longer_run_resumes_on_the_longer_cycle(tmp_path):
    """``OneCycleLR`` keeps the old total and fails: "Tried to step 17 times"."""
    first = fitted(tmp_path, OneCycle(1e-2), max_epochs=2)
    first.save_checkpoint(tmp_path / "two.ckpt")
    probe = probed(tmp_path, OneCycle(1e-2), ckpt_path=tmp_path / "two.ckpt", max_epochs=4)
    np.testing.assert_allclose([lrs[-1] for lrs in probe.lrs], rates(24, 1e-2)[12:], rtol=1e-6)


# -- what it refuses ---------------------------------------------------------------------------------------------------


def with_scheduler() -> Scheduled:
    return Scheduled(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1))


class TwoOptimizers(Untrained):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return torch.optim.SGD(self.stem.parameters(), lr=0.1), torch.optim.SGD(self.head.parameters(), lr=0.1)


class Automatic(TwoOptimizers):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True


class NoOptimizer(Untrained):
    def configure_optimizers(self):
        return None


class Lazy(Untrained):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.LazyLinear(4)


class LazyUntilSetup(ForeignNet):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.LazyLinear(4)

    def setup(self, stage):
        self(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Lazy, "OneCycle needs the sizes of all layers.*Lazy has lazy ones.*in its `setup`"),
        (with_scheduler, "OneCycle sets the learning rates.*Scheduled also returns StepLR"),
        (TwoOptimizers, "OneCycle needs automatic optimization.*TwoOptimizers"),
        (Automatic, "multiple optimizers"),  # Lightning's own word
        (NoOptimizer, "OneCycle needs exactly one optimizer.*got 0"),
    ],
)
def test_modules_it_cannot_serve_are_refused_before_the_first_batch(tmp_path, module, message):
    with pytest.raises((UnsupportedError, RuntimeError), match=message):
        fit(tmp_path, module=module(), max_epochs=1)


def test_a_lazy_head_that_saw_a_batch_in_setup_has_the_rate_of_the_head(tmp_path):
    assert fit(tmp_path, module=LazyUntilSetup(), max_epochs=1).lrs[1] == fit(tmp_path, max_epochs=1).lrs[1]


def test_a_parameter_group_that_is_added_on_the_way_is_refused(tmp_path):
    class Grows(ForeignNet):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.neck = torch.nn.Conv2d(8, 8, 1)
                self.optimizers().add_param_group({"params": list(self.neck.parameters())})

    with pytest.raises(UnsupportedError, match="keep its 4 parameter groups, got 5: somebody added"):
        fit(tmp_path, module=Grows(), max_epochs=2)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_it_has_no_part_in_evaluation(tmp_path, stage):
    callback = OneCycle(1e-2)
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    module = TwoOptimizers() if stage != "predict" else with_scheduler()
    getattr(trainer, stage)(module, loader(8), verbose=False) if stage != "predict" else trainer.predict(
        module, loader(8)
    )
    assert (callback.current_grouping, callback.current_plan, callback.seed) == (None, None, None)


def test_fast_dev_run_needs_no_care(tmp_path):
    probe = fit(tmp_path, fast_dev_run=2)
    assert len(probe.lrs) == 2


def test_a_tensor_as_rate_has_one_value_for_each_layer_group(tmp_path):
    module = ForeignNet()
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=torch.tensor(1e-2), foreach=False)
    highest = [0.0] * 4

    class Highest(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            highest[:] = map(max, highest, [float(group["lr"]) for group in optimizer.param_groups])

    fitted(tmp_path, OneCycle((1e-4, 1e-1)), Highest(), module=module, max_epochs=2)
    assert highest == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
