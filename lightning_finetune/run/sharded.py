"""How a run with sharded parameters resumes: Lightning restores it after the callbacks have begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

_STATE = "optimizer_0.state."
"""How the keys of an optimizer's state begin in a folder of shards."""


def restore_what_was_stepped(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """While the strategy loads a checkpoint, freeze what its optimizer has not stepped.

    torch looks for a state of all that trains, and layers that no phase had unfrozen have none.
    """
    strategy: Any = trainer.strategy
    load = strategy.load_checkpoint

    def load_stepped(checkpoint_path: str | Path, *args: Any, **options: Any) -> Any:
        stepped = _stepped(Path(checkpoint_path), [name for name, _ in module.named_parameters()])
        frozen = [param for name, param in module.named_parameters() if param.requires_grad and name not in stepped]
        for param in frozen:
            param.requires_grad_(False)
        try:
            return load(checkpoint_path, *args, **options)
        finally:
            strategy.load_checkpoint = load
            for param in frozen:
                param.requires_grad_(True)

    strategy.load_checkpoint = load_stepped


def _stepped(path: Path, names: list[str]) -> set[str]:
    """Names of the parameters that have an optimizer state in a checkpoint: a file, or a folder of shards."""
    if path.is_dir():
        from torch.distributed.checkpoint.filesystem import FileSystemReader  # only now, as it takes long to load

        keys = FileSystemReader(path).read_metadata().state_dict_metadata
        return {key.removeprefix(_STATE).rpartition(".")[0] for key in keys if key.startswith(_STATE)}
    states = torch.load(path, map_location="cpu", mmap=True, weights_only=True).get("optimizer_states") or [{}]
    return {names[place] for place in states[0].get("state", {})}
