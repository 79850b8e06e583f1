"""The one place that knows the Trainer's inner parts.

What is used of Lightning and torch that is not documented: ``FitLoop._data_fetcher`` (to begin an epoch's data anew
after a resume), ``LightningModule._on_before_batch_transfer`` (a batch's hooks, in the range test's own loop),
``_should_check_val_fx`` of the epoch's loop (whether a validation follows), and ``_schedulers`` of those that chain
others (to scale their rates). Everything else here is public, kept together so that the callbacks read as what they do.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_finetune.data.batches.loader import ImageLoader
from lightning_finetune.engine import nested
from lightning_finetune.engine.epochs import same_part
from lightning_finetune.engine.processes import gathered
from lightning_finetune.errors import UnsupportedError
from lightning_finetune.run.either_lightning import is_a

DEFAULT_MAX_EPOCHS = 1000
"""What Lightning sets when the user gives no end of the run."""


def refuse_unsupported(trainer: pl.Trainer, module: pl.LightningModule, name: str) -> None:
    """Refuse strategies and loops in which layers cannot be frozen and unfrozen correctly.

    Raises:
        UnsupportedError: Names the strategy and the way out.
    """
    strategy = trainer.strategy
    is_ddp = is_a(strategy, DDPStrategy) and not is_a(strategy, DeepSpeedStrategy)
    if not (is_ddp or is_a(strategy, SingleDeviceStrategy) or shards(trainer)):
        raise UnsupportedError(
            f"{name} does not support {type(strategy).__name__}: it shards or wraps parameters in a way that does not "
            'follow layers being frozen and unfrozen. Use strategy="ddp", one device, or, for a model that is too '
            "large for one, ModelParallelStrategy."
        )
    if not module.automatic_optimization:
        raise UnsupportedError(
            f"{name} needs automatic optimization, but {type(module).__name__} sets "
            "`automatic_optimization = False`. Let Lightning step the optimizer."
        )


def shards(trainer: pl.Trainer) -> bool:
    """Whether each process holds a part of each parameter, as torch's ``fully_shard`` leaves them to be frozen."""
    return is_a(trainer.strategy, ModelParallelStrategy)


def the_optimizer(trainer: pl.Trainer, name: str) -> Optimizer:
    """The run's only optimizer.

    Raises:
        UnsupportedError: None or several, or one of layers that have no weights yet.
    """
    optimizers = [optimizer for optimizer in trainer.optimizers if optimizer.param_groups]  # Lightning's stand-in: none
    if len(optimizers) != 1:
        raise UnsupportedError(
            f"{name} needs exactly one optimizer from `configure_optimizers`, got {len(optimizers)}."
        )
    if any(is_lazy(param) for group in optimizers[0].param_groups for param in group["params"]):
        module = type(trainer.lightning_module).__name__
        raise UnsupportedError(
            f"{name} needs the sizes of all layers before the first step, but {module} has lazy ones. "
            "Run it on a batch of images in its `setup`, or before the fit."
        )
    return optimizers[0]


def steps_per_epoch(trainer: pl.Trainer, epochs: int) -> list[int] | None:
    """Optimizer steps of each of the first ``epochs`` epochs; None where the data has no length.

    Lightning's ``estimated_stepping_batches`` ignores an accumulation that changes, and asking for it before the
    checkpoint is restored loses the loader's place.
    """
    batches = trainer.num_training_batches
    if batches == math.inf:
        return None
    return [math.ceil(batches / accumulation(trainer, epoch)) for epoch in range(epochs)]


def steps_of_epoch(trainer: pl.Trainer, epoch: int) -> int | None:
    """Optimizer steps of one epoch; None where the data has no length."""
    steps = steps_per_epoch(trainer, epoch + 1)
    return None if steps is None else steps[-1]


def accumulation(trainer: pl.Trainer, epoch: int) -> int:
    """How many batches of ``epoch`` make an optimizer step."""
    schedulers = [callback for callback in callbacks(trainer) if is_a(callback, GradientAccumulationScheduler)]
    return schedulers[0].get_accumulate_grad_batches(epoch) if schedulers else trainer.accumulate_grad_batches


def callbacks(trainer: pl.Trainer) -> list[Callback]:
    """All callbacks of the run, in order."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # set by a connector, unseen by type checkers


def is_dev_run(trainer: pl.Trainer) -> bool:
    """Whether ``fast_dev_run`` cuts the run to a few batches, which no plan fits."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # likewise


def max_epochs(trainer: pl.Trainer) -> int | None:
    """Where the run ends, in epochs, or None."""
    limit = trainer.max_epochs
    return limit if limit is not None and limit >= 0 else None


def max_steps(trainer: pl.Trainer) -> int | None:
    """Where the run ends, in optimizer steps, or None."""
    return trainer.max_steps if trainer.max_steps >= 0 else None


def register_trainable(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Tell DDP anew which parameters have gradients.

    It registers them when it wraps the model and never again, so that layers unfrozen later would drift apart between
    ranks without a word (Lightning issue 20340). A new wrapper costs one broadcast a phase, needs no
    ``find_unused_parameters``, and does not send what is frozen.
    """
    strategy = trainer.strategy
    if is_a(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = module
        strategy.configure_ddp()


def data_fetcher(trainer: pl.Trainer) -> Any:
    """What the epoch loop takes its batches from; ``iter`` of it begins the loaders anew."""
    return trainer.fit_loop._data_fetcher


def before_each_batch(trainer: pl.Trainer, note: Callable[[], None]) -> None:
    """Have ``note`` called before each batch is taken; of data without a length Lightning then fetches the next one."""
    fetcher = data_fetcher(trainer)
    kind = type(fetcher)

    def taken(self: Any) -> Any:
        note()
        return kind.__next__(self)

    fetcher.__class__ = type(kind.__name__, (kind,), {"__next__": taken})


def begins_resumed(trainer: pl.Trainer) -> bool:
    """Whether the epoch that begins is the first after a resume."""
    return trainer.fit_loop.is_resuming or trainer.fit_loop.restarting


def resumed_place(trainer: pl.Trainer) -> Literal["within", "after"] | None:
    """Whether the run goes on within its current epoch, or after the last batch of it; at ``on_train_start``."""
    loop = trainer.fit_loop
    if not loop.restarted_mid_epoch:
        return None
    return "after" if loop.epoch_loop.batch_progress.is_last_batch else "within"


def seen_batches(trainer: pl.Trainer) -> int:
    """How many batches of its epoch a run that was resumed within one has seen; at ``on_train_start``."""
    steps = trainer.fit_loop.epoch_loop
    if resumed_place(trainer) != "within":
        return 0
    return steps.batch_progress.current.completed + int(steps.restarted_on_train_batch_end)


def move_within_epoch(trainer: pl.Trainer, before: int) -> None:
    """Let a run that was resumed go on at the same part of its epoch, which had other batches; at ``on_train_start``.

    Args:
        trainer: Of the run.
        before: How many batches the epoch had in the run that was stopped.
    """
    steps, now = trainer.fit_loop.epoch_loop, int(trainer.num_training_batches)
    loaders = nested.leaves(trainer.train_dataloader)
    ours = [loader for loader in loaders if isinstance(loader, ImageLoader)]
    exact = ours[0].behind(before) if len(ours) == len(loaders) == 1 and now == len(ours[0]) else None
    seen = same_part(seen_batches(trainer), before, now) if exact is None else exact
    if steps.batch_progress.is_last_batch:
        seen = now
    done = seen - int(steps.restarted_on_train_batch_end)  # which Lightning adds when it goes on
    steps.batch_progress.current.load_state_dict({"ready": seen, "started": seen, "processed": seen, "completed": done})
    for loader in ours if exact is None else ():
        loader.load_state_dict({"epoch": trainer.current_epoch, "batch": seen})


def begin_epoch_as_usual(trainer: pl.Trainer) -> None:
    """Have the hooks of an epoch's start called after a resume from a checkpoint of the end of the epoch before.

    From one of its last batch, and where ``max_steps`` ends the run also from one of its very end, Lightning goes on to
    the next epoch, but takes it for one that had begun and leaves them out; or it ends the epoch once more.
    """
    loop, steps = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if loop.restarted_on_epoch_end:
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        steps.restarting = False
    elif loop.restarted_mid_epoch and steps.restarted_on_train_batch_end and steps.batch_progress.is_last_batch:
        loop.reset_restart_stage()


def validate_what_was_not(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let a run that resumes from a checkpoint of an epoch's last batch, or of amid its validation, validate first.

    Lightning would leave the validation out, or judge by what is left of it.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batches, validated = loop["epoch_loop.batch_progress"], loop["epoch_loop.val_loop.batch_progress"]
    every = trainer.check_val_every_n_epoch
    if not batches["is_last_batch"] or every is None or (checkpoint["epoch"] + 1) % every:
        return
    total = batches["total"]
    if total["completed"] == total["processed"] - 1 and trainer.val_check_interval == 1.0:
        for part in ("total", "current"):
            batches[part]["completed"] += 1
    elif validated["total"]["started"] == validated["total"]["completed"]:
        return
    validation_begins_anew(checkpoint)


def validation_begins_anew(checkpoint: dict[str, Any]) -> None:
    """Let a run that resumes from a checkpoint of amid its validation validate from the first batch on."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    before = progress["total"]["completed"] - progress["current"]["completed"]
    for part, done in (("total", before), ("current", 0)):
        progress[part].update(ready=done + 1, started=done + 1, processed=done, completed=done)


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates after the batch that has just been trained; at ``on_train_batch_end``."""
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(data_fetcher(trainer)))


def to_device(trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> Any:
    """A batch as ``training_step`` gets it: its hooks called, converted and moved."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch)


def schedulers(trainer: pl.Trainer) -> list[LRScheduler]:
    """Those of the module, each followed by those that it chains."""
    found = [config.scheduler for config in trainer.lr_scheduler_configs]
    for scheduler in found:
        found += getattr(scheduler, "_schedulers", ())
    return found


def run_seed(trainer: pl.Trainer) -> int:
    """The seed of the run: that of ``seed_everything``, else one that torch's generator draws on rank 0."""
    drawn = os.environ.get("PL_GLOBAL_SEED") or int(torch.randint(2**32, ()))
    return int(trainer.strategy.broadcast(int(drawn)))


def reseed(device: torch.device, *key: int | str) -> None:
    """Put the global generators, and the device's, into a state that depends on ``key`` alone.

    With (seed, epoch, batch, rank) as the key, dropout draws the same whatever happened before: a resume, a range test,
    a validation. Not by ``torch.manual_seed``: for devices that are not there it notes each call, at a tenth of a
    millisecond. ``LIGHTNING_FINETUNE_RESEED=0`` leaves all generators as they are.
    """
    if os.environ.get("LIGHTNING_FINETUNE_RESEED") == "0":
        return
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little")
    torch.default_generator.manual_seed(value)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


def loss_in(output: Any) -> Tensor | None:
    """The loss that a ``training_step`` gave, be it in a mapping; None where it skipped the batch."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None


def gather(trainer: pl.Trainer, tensor: Tensor) -> Tensor:
    """The rows ``[N, ...]`` of all processes one after the other; their numbers may differ."""
    return tensor if trainer.world_size == 1 else torch.cat(gathered(tensor.cpu())).to(tensor.device)


def scalar_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """What has been logged last, as plain numbers: no copies by step of what is logged by epoch, no learning rates."""
    metrics: dict[str, Any] = dict(trainer.callback_metrics)
    monitors = [callback for callback in callbacks(trainer) if is_a(callback, LearningRateMonitor)]
    left_out = tuple(name for monitor in monitors for name in monitor.lrs)
    names = [name for name in metrics if not (name.endswith("_step") or name.startswith(left_out))]
    return {name: float(metrics[name]) for name in names}
