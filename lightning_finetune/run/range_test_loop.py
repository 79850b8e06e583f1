"""The range test's own loop through the Trainer's strategy and precision; it leaves no trace in the run.

Lightning's tuner is not used: after an unfreezing it collects no point, it flattens the layer groups to one rate, it
takes the slope against the linear rate, and it writes a checkpoint to disk.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_finetune.data.batches.loader import LendingLoader
from lightning_finetune.engine.nested import leaves, map_nested
from lightning_finetune.engine.param_groups import own_rates, ratios, set_rate
from lightning_finetune.engine.range_test import Curve, record_curve, suggest
from lightning_finetune.engine.snapshot import preserved
from lightning_finetune.errors import UnsupportedError
from lightning_finetune.run.either_lightning import is_a
from lightning_finetune.run.trainer import accumulation, loss_in, reseed, steps_of_epoch, to_device


def run_range_test(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    rates: Sequence[float],
    scales: Sequence[float],
    seed: int,
    who: str,
) -> Curve:
    """Test a range of learning rates over training batches and put everything back.

    Says before how many steps it takes, and after how long it took.

    Args:
        trainer: In the middle of a fit.
        module: Its module.
        rates: In growing order, one optimizer step each.
        scales: What each of the optimizer's parameter groups multiplies the rate by.
        seed: Of the random draws within the test.
        who: Begins what is printed.

    Returns:
        The curve with its suggestions; the same on every rank, as losses are means over ranks.
    """
    per_epoch = steps_of_epoch(trainer, trainer.current_epoch)
    passes = "" if per_epoch is None else f", {len(rates) / per_epoch:.2g} times the training data"
    rank_zero_info(f"{who}: up to {len(rates)} steps at rates from {rates[0]:.0e} to {rates[-1]:.0e}{passes}.")
    begin = time.monotonic()
    with undisturbed(trainer, module, trainer.optimizers[0]):
        reseed(trainer.strategy.root_device, seed, trainer.current_epoch, -2, trainer.global_rank)
        with closing(_lent_batches(trainer, module)) as batches:
            curve = record_curve(_Stepper(trainer, module, scales, batches).step, rates)
    rank_zero_info(f"{who}: {len(curve.lrs)} steps took {time.monotonic() - begin:.1f} s.")
    return replace(curve, suggestions=suggest(curve, len(rates)))


def lends_batches(trainer: pl.Trainer) -> bool:
    """Whether training batches can be had without iterating a loader of the user's, or moving on a stream of theirs."""
    return all(
        isinstance(loader, LendingLoader) or (isinstance(loader, DataLoader) and _can_be_read_twice(loader))
        for loader in leaves(trainer.train_dataloader)
    )


def _can_be_read_twice(loader: DataLoader[Any]) -> bool:
    """Whether its data does not notice; of a stream that knows its place, all workers may share that place."""
    stream = loader.dataset
    return not isinstance(stream, IterableDataset) or (
        loader.num_workers > 0 and not hasattr(stream, "load_state_dict")
    )


def try_step(trainer: pl.Trainer, module: pl.LightningModule, batch: Any = None) -> None:
    """Make one optimizer step as training would, and put everything back.

    Args:
        trainer: In the middle of a fit.
        module: Its module.
        batch: As ``training_step`` gets it; None: of loaders of our own, where those of the run lend batches.
    """
    optimizer = trainer.optimizers[0]
    source = _lent_batches(trainer, module) if batch is None else _copies(batch)
    with undisturbed(trainer, module, optimizer), closing(source) as batches:
        _Stepper(trainer, module, ratios(optimizer), batches).step(1e-7)


@contextmanager
def undisturbed(trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer) -> Iterator[None]:
    """The run's state, its logs and its callbacks see nothing of what happens inside."""
    callbacks, loggers = trainer.callbacks, trainer.loggers  # type: ignore[attr-defined]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = None if scaler is None else copy.deepcopy(scaler.state_dict())
    sources = [*leaves(trainer.train_dataloader), getattr(trainer, "datamodule", None)]  # what batches come from
    with preserved(module, optimizer, sources), ExitStack() as stack:
        stack.callback(setattr, trainer, "callbacks", callbacks)
        stack.callback(setattr, trainer, "loggers", loggers)
        stack.callback(vars(module).pop, "log", None)
        stack.callback(vars(module).pop, "log_dict", None)
        if scaler is not None:
            stack.callback(scaler.load_state_dict, scale)
        trainer.callbacks = []  # type: ignore[attr-defined]
        trainer.loggers = [DummyLogger()] if loggers else []
        vars(module)["log"] = vars(module)["log_dict"] = _log_nothing
        yield


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for ``LightningModule.log`` while the range test runs."""


class _Stepper:
    """Makes optimizer steps of the run's own kind: its precision, accumulation, clipping and hooks of the module."""

    def __init__(
        self, trainer: pl.Trainer, module: pl.LightningModule, scales: Sequence[float], batches: Iterator[Any]
    ) -> None:
        self.trainer, self.module, self.scales, self.batches = trainer, module, scales, batches
        self.optimizer = trainer.optimizers[0]
        own_rates(self.optimizer)
        self.accumulate = accumulation(trainer, trainer.current_epoch)

    def step(self, lr: float) -> float:
        """One optimizer step at ``lr``; the loss before it, averaged over micro-batches and ranks."""
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            set_rate(group, lr * scale)
        losses: list[Tensor] = []

        def closure() -> Tensor | None:
            losses.clear()
            self.optimizer.zero_grad()
            for index in range(self.accumulate):
                with self._sync(last=index == self.accumulate - 1):
                    losses.extend(self._micro_step(index))
            return losses[-1] if losses else None

        strategy = self.trainer.strategy
        strategy.optimizer_step(self.optimizer, closure, model=self.module)
        mean = torch.stack(losses).mean() if losses else torch.tensor(torch.nan, device=strategy.root_device)
        return float(strategy.reduce(mean, reduce_op="mean"))

    def _sync(self, last: bool) -> Any:
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if is_a(strategy, DDPStrategy) and not last else nullcontext()

    def _micro_step(self, index: int) -> list[Tensor]:
        strategy = self.trainer.strategy
        loss = loss_in(strategy.training_step(*_arguments(self.module, next(self.batches), index)))
        if loss is None:  # the module skips this batch
            return []
        strategy.backward(loss / self.accumulate, self.optimizer)
        return [loss.detach().float()]


def _arguments(module: pl.LightningModule, batch: Any, index: int) -> tuple[Any, ...]:
    return (batch, index) if len(inspect.signature(module.training_step).parameters) > 1 else (batch,)


def _copies(batch: Any) -> Generator[Any]:
    """The same batch for ever; what a step changes in it is not seen."""
    while True:
        yield copy.deepcopy(batch)


def _lent_batches(trainer: pl.Trainer, module: pl.LightningModule) -> Generator[Any]:
    """Training batches on the device, from the beginning, again and again, by loaders of our own where that can be.

    Closed, it ends their workers, so that nobody writes any more when things are put back.
    """
    combined = CombinedLoader(map_nested(_own_loader, trainer.train_dataloader), "max_size_cycle")
    try:
        while True:
            empty = True
            for count, (batch, _, _) in enumerate(iter(combined)):
                if count >= trainer.num_training_batches:
                    break
                empty = False
                yield to_device(trainer, module, batch)
            if empty:
                raise UnsupportedError("The range test got no batch from the training data.")
    finally:
        combined.reset()


def one_pass(trainer: pl.Trainer, module: pl.LightningModule) -> Generator[Any]:
    """Each training image once, on the device, by loaders of our own where that can be.

    Only as many batches as an epoch has if the user limits them.
    """
    combined = CombinedLoader(map_nested(_own_pass, trainer.train_dataloader), "max_size_cycle")
    limit = None if trainer.limit_train_batches == 1.0 else int(trainer.num_training_batches)
    try:
        for batch, _, _ in islice(iter(combined), limit):
            yield to_device(trainer, module, batch)
    finally:
        combined.reset()


def _own_pass(loader: Any) -> Any:
    return loader.one_pass() if isinstance(loader, LendingLoader) else _own_loader(loader)


def _own_loader(loader: Any) -> Any:
    """A loader of the same data, so that the run's iterator and its persistent workers go on undisturbed."""
    if isinstance(loader, LendingLoader):
        return loader.independent()
    if not isinstance(loader, DataLoader):
        return loader
    settings = {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": loader.generator,
    }
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, batch_size=loader.batch_size, drop_last=loader.drop_last, **settings)
    if loader.batch_sampler is None:
        return DataLoader(loader.dataset, batch_size=None, sampler=loader.sampler, **settings)
    return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, **settings)
