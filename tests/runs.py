"""One training run in a process of its own, as a user starts it: ``python -m tests.runs OUT [options]``.

Rank r writes ``OUT/rank{r}.pt``: parameters, optimizer state, and for each phase the bytes that DDP reduced.
"""

import argparse
import multiprocessing
import os
import signal
from dataclasses import asdict
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from lightning_finetune.callbacks import FineTune, GradualUnfreezing, OneCycle, RunReport
from lightning_finetune.callbacks.last_checkpoint import LastCheckpoint
from lightning_finetune.callbacks.lr_range_test import LRRangeTest
from lightning_finetune.data import ImageData
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.processes import leave_group
from lightning_finetune.tasks import ImageClassifier
from tests.foreign import ForeignNet, images, quiet_trainer


class Strided(DistributedSampler):
    """Every batch of two ranks together is the batch of twice the size of one process."""

    def __init__(self, count: int) -> None:
        self.count = count

    def set_epoch(self, epoch: int) -> None: ...

    def __iter__(self):
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return iter(range(rank, self.count, world))

    def __len__(self) -> int:
        return self.count // (dist.get_world_size() if dist.is_initialized() else 1)


class CountBytes(pl.Callback):
    """Counts what DDP reduces in each epoch, by a communication hook of torch's."""

    def __init__(self) -> None:
        self.sent: dict[int, int] = {}
        self.wrapper: object = None

    def on_before_backward(self, trainer, pl_module, loss):
        model = trainer.strategy.model
        if hasattr(model, "register_comm_hook") and model is not self.wrapper:
            self.wrapper = model
            model.register_comm_hook((self, trainer), _count)


class Indices(pl.Callback):
    """Which images each batch of training held."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if isinstance(batch, dict):
            self.seen.append((trainer.current_epoch, batch["index"].tolist()))


def _count(state, bucket):
    counter, trainer = state
    epoch = trainer.current_epoch
    counter.sent[epoch] = counter.sent.get(epoch, 0) + bucket.buffer().numel() * 4
    return default_hooks.allreduce_hook(None, bucket)


class Agree(pl.Callback):
    """Fails where two ranks do not hold the same bits at the end."""

    def on_train_end(self, trainer, pl_module):
        for name, param in pl_module.named_parameters():
            gathered = pl_module.all_gather(param.detach()).reshape(-1, *param.shape)
            if not all(torch.equal(gathered[0], replica) for replica in gathered):
                raise RuntimeError(f"{name} differs between ranks by {(gathered - gathered[0]).abs().max():.1e}")


def callbacks(which: str) -> list[pl.Callback]:
    if which == "fine_tune":
        return [FineTune([Phase(1, "head", 1e-2), Phase(1, 2, (None, 1e-2)), Phase(2, "all", (1e-3, 1e-2))])]
    if which == "find":
        return [FineTune([Phase(1, "head", 1e-2), Phase(1, 2, (None, 1e-2)), Phase(2, "all", ("find", 1e-2))])]
    if which == "recipe":
        return [FineTune()]
    if which == "report":
        return [FineTune([Phase(2, "head", 1e-2), Phase(2, "all", (1e-3, 1e-2))]), RunReport()]
    if which == "apart":
        return [GradualUnfreezing({0: "head", 1: 2, 2: "all"}), OneCycle(max_lr=(1e-3, 1e-2))]
    if which == "range_test":
        unfreezing = GradualUnfreezing({0: "head", 2: "all"})
        return [LRRangeTest(num_steps=40, at_epochs=(0, 2), suggest="valley"), unfreezing, OneCycle((1e-3, 1e-2))]
    return []


class Stop(pl.Callback):
    """After a number of optimizer steps ends the process abruptly, as a kill would; or raises, or sends it a signal."""

    def __init__(self, step: int, rank: int | None, how: str) -> None:
        self.step = step
        self.rank = rank
        self.how = how
        self.batches = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.batches += 1
            self.do(trainer.accumulate_grad_batches)

    def do(self, accumulated: int) -> None:
        if self.how == "exit":
            os._exit(17)
        if self.how == "worker":
            multiprocessing.active_children()[0].kill()
            self.step = -1
        if self.how == "raise":
            raise RuntimeError("This process cannot go on.")
        if self.how.startswith("SIG") and self.batches == min(2, accumulated):  # amid an accumulation, once
            os.kill(os.getpid(), getattr(signal, self.how))


def foreign_loaders(args: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    data = images(48)
    sampler: Sampler | None = None if args.shuffle else Strided(len(data))
    train = DataLoader(data, args.batch_size, sampler=sampler, shuffle=args.shuffle or None)
    return train, DataLoader(images(16, seed=1), 8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--which", default="fine_tune")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--stop-rank", type=int, help="only this process, else all")
    parser.add_argument(
        "--how", default="exit", help="exit, raise, worker, or a signal, for which LastCheckpoint saves"
    )
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--every", type=int, help="save each this many steps, else each epoch")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--plain", action="store_true", help="no norm layers, no dropout")
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--images", type=Path, help="a folder for the package's data module and task")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--augment", default="photo")
    args = parser.parse_args()
    pl.seed_everything(7, verbose=False)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    counter, indices = CountBytes(), Indices()
    ran: list[int] = []
    saver = ModelCheckpoint(
        args.out,
        filename="{step}",
        every_n_train_steps=args.every,
        save_top_k=-1,
        save_on_train_epoch_end=args.every is None or None,
    )
    extra: list[pl.Callback] = [Stop(args.stop, args.stop_rank, args.how)] if args.stop is not None else []
    extra += [LastCheckpoint()] if args.how.startswith("SIG") else []
    trainer = quiet_trainer(
        args.out / f"rank{os.environ.get('LOCAL_RANK', 0)}",  # so that it is seen which process writes what
        callbacks=[*callbacks(args.which), counter, Agree(), *extra, indices, saver],
        enable_checkpointing=True,
        max_epochs=4,
        accumulate_grad_batches=args.accumulate,
        strategy=args.strategy,
        devices=args.devices,
        use_distributed_sampler=args.shuffle,
    )
    if args.images:
        module = ImageClassifier("test_efficientnet", num_classes=2, weights=False)
        module.model.backbone.register_forward_pre_hook(lambda _, inputs: ran.append(len(inputs[0])))
        options = {"batch_size": args.batch_size, "num_workers": args.workers, "augment": args.augment}
        data = ImageData.from_folder(args.images, size=64, **options)
        trainer.fit(module, data, ckpt_path=args.resume)
    else:
        module = ForeignNet(args.optimizer, norm=not args.plain, dropout=0.0 if args.plain else 0.3)
        trainer.fit(module, *foreign_loaders(args), ckpt_path=args.resume)
    result = {
        "params": {name: param.detach().clone() for name, param in module.state_dict().items()},
        "optimizer": trainer.optimizers[0].state_dict() if trainer.optimizers else {},
        "sent": counter.sent,
        "ran": sum(ran),
        "seen": indices.seen,
        "curves": [
            asdict(c) for found in trainer.callbacks if isinstance(found, LRRangeTest) for c in found.results.values()
        ],
        "find_unused": isinstance(trainer.strategy, DDPStrategy)
        and bool(getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters")),
    }
    torch.save(result, args.out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell lacks
    main()
    leave_group()
