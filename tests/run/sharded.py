"""A run whose parameters are sharded, or not: ``torchrun … -m tests.run.sharded OUT STRATEGY [CHECKPOINT]``.

``STRATEGY`` is ``ddp``, ``sharded``, or ``folder``, whose checkpoints are folders of shards.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from lightning_finetune.callbacks import FineTune
from lightning_finetune.engine.phases import Phase
from lightning_finetune.engine.processes import leave_group
from tests.foreign import ForeignNet, loader, quiet_trainer


class Sharded(ForeignNet):
    """As the guide of Lightning has it: each block, and what is left."""

    def configure_model(self):
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            from torch.distributed.fsdp import fully_shard

            for part in (self.stem, self.body, self.neck, self.head, self):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])


def main() -> None:
    out, which = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    pl.seed_everything(7, verbose=False)
    whole = which != "folder"
    sharded = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=not whole)
    phases = [Phase(1, "head", 1e-2), Phase(1, 2, (None, 1e-2)), Phase(2, "all", ("find", 1e-2))]
    saver = ModelCheckpoint(out, filename=which + "-{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        out,
        callbacks=[FineTune(phases), saver],
        enable_checkpointing=True,
        strategy=DDPStrategy() if which == "ddp" else sharded,
        devices=2,
        max_epochs=4,
    )
    module = Sharded(norm=False, dropout=0.0)
    trainer.fit(module, loader(48, 8), ckpt_path=sys.argv[3] if len(sys.argv) > 3 else None)
    trainer.save_checkpoint(out / f"{which}.ckpt")
    if which == "folder":  # what it ends with, in a file that one process reads
        weights = {name: value.full_tensor() for name, value in module.state_dict().items()}
        torch.save(weights, out / f"weights{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
    leave_group()
