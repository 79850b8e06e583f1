"""What ``peers.py`` tries of what others have and this package has not: ``peers_more.py LIBRARY KEY``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

Seen = tuple[str, str]


def absent(library: str, *words: str) -> Seen:
    """No public name of the library holds any of the words."""
    if library == "fastai":
        from peers_fastai import absent as of_fastai

        return of_fastai(*words)
    from peers_lightning import absent as of_lightning

    return of_lightning(library, *words)


def data(library: str, root: Path) -> Seen:
    """A table of words and numbers, and text, as data."""
    if library != "fastai":
        return absent(library, "tabular", "tokeniz")
    import pandas
    from fastai.tabular.all import Categorify, CategoryBlock, Normalize, TabularDataLoaders, tabular_learner
    from fastai.text.data import TextDataLoaders

    frame = pandas.DataFrame({"number": [0.0, 1.0] * 16, "word": ["a", "b"] * 16, "label": ["x", "y"] * 16})
    options = {"cat_names": ["word"], "cont_names": ["number"], "procs": [Categorify, Normalize], "bs": 8}
    loaders = TabularDataLoaders.from_df(frame, root, y_names="label", y_block=CategoryBlock(), **options)
    learn = tabular_learner(loaders, path=root)
    learn.fit(1)
    return (
        "yes",
        f"a network trains on a table ({len(learn.recorder.losses)} steps); {TextDataLoaders.__name__} for text",
    )


def new_optimizer(library: str, root: Path) -> Seen:
    """Another optimizer from the second phase on."""
    if library == "lightning":
        return absent(library, "new_optimizer", "reinit")
    if library == "fastai":
        from fastai.optimizer import SGD, Adam
        from peers_fastai import learner

        learn = learner(root, opt_func=SGD)
        learn.freeze()
        learn.fit(1)
        learn.opt_func = Adam
        learn.unfreeze()
        learn.fit(1, reset_opt=True)
        now = "sqr_mom" in learn.opt.hypers[0]
        return ("yes" if now else "no"), f"fit(reset_opt=True) makes Adam of SGD: {now}"
    from peers_lightning import BATCHES, EPOCHS, HEAD, Task, fit, unfreezing

    adam = {"optimizer_init": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}}
    schedule = {
        0: {"params": ["head.*"], "max_transition_epoch": HEAD},
        1: {"params": ["backbone.*"], "max_transition_epoch": EPOCHS, "lr": 1e-3, "new_optimizer": adam},
    }
    trainer = fit(Task(), [unfreezing(library, ft_schedule=schedule)], root)
    last = type(trainer.optimizers[0]).__name__
    return ("yes" if last == "AdamW" else "no"), f"SGD became {last} after {HEAD * BATCHES} steps"


def sharded(library: str, root: Path) -> Seen:
    """Parameters sharded over devices; to run it takes GPUs, so what is there is named."""
    if library == "fastai":
        return absent(library, "fsdp", "modelparallel")
    if library == "lightning":
        from lightning.pytorch.strategies import FSDPStrategy

        return "documented", f"has {FSDPStrategy.__name__}, which needs GPUs and was not run"
    adapters = importlib.import_module("finetuning_scheduler.strategy_adapters")
    names = [name for name in ("FSDPStrategyAdapter", "ModelParallelStrategyAdapter") if hasattr(adapters, name)]
    return ("documented" if names else "no"), f"has {' and '.join(names)}; they need GPUs and were not run"


def adapters(library: str, root: Path) -> Seen:
    """Adapters in place of whole layers, made by the library."""
    return absent(library, "lora", "adapter_rank", "peft")


def averages(library: str, root: Path) -> Seen:
    """An average of the best checkpoints as the final weights."""
    if library != "lightning":
        return absent(library, "soup", "weightaverag")
    return (
        "partly",
        "WeightAveraging and StochasticWeightAveraging average along the run, not over the best checkpoints",
    )


def search(library: str, root: Path) -> Seen:
    """A search over settings, not over the learning rate or the batch size alone."""
    return absent(library, "optuna", "hyperparameter_tune", "sweep")


def main() -> None:
    """Print what was seen of one library in one row."""
    library, key = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(Path(__file__).parent.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        seen = globals()[key](library, Path(folder))
    print("\nRESULT " + json.dumps(seen))


if __name__ == "__main__":
    main()
