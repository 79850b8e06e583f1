"""What ``peers.py`` tries with fastai: ``peers_fastai.py fastai KEY``.

A small network with a norm layer, in three layer groups.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pkgutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import fastai
import torch
from fastai.basics import Callback, DataLoaders, Learner, params
from fastai.callback.progress import *  # noqa: F403  and no_bar
from fastai.callback.schedule import *  # noqa: F403  the schedules are patched into Learner
from fastai.callback.tracker import EarlyStoppingCallback
from torch import nn
from torch.utils.data import TensorDataset

HEAD, EPOCHS, BATCHES = 2, 4, 8
Seen = tuple[str, str]


def network() -> nn.Module:
    """A backbone with a norm layer, and a head."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    return nn.Sequential(backbone, nn.Linear(8, 2))


def groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """A splitter, as fastai asks its users for."""
    return [params(model[0][:2]), params(model[0][2:]), params(model[1])]


def learner(root: Path, *, split: bool = True, shuffle: bool = False, **options: Any) -> Learner:
    """The network with eight batches of eight."""
    draw = torch.Generator().manual_seed(1)
    given = torch.randn(64, 8, generator=draw)
    data = TensorDataset(given, (given.sum(1) > 0).long())
    loaders = DataLoaders.from_dsets(data, data, bs=8, shuffle=shuffle, device="cpu", num_workers=0)
    made = {"splitter": groups} if split else {}
    made |= {"loss_func": nn.CrossEntropyLoss(), "path": root, "model_dir": root}
    return Learner(loaders, network(), **(made | options))


def bits(learn: Learner) -> torch.Tensor:
    """All parameters in a row."""
    return torch.cat([param.detach().flatten() for param in learn.model.parameters()])


class Rates(Callback):
    """The rates of all groups at each step, and how many fits there were."""

    order = 70  # after the schedules, which are at 60

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.fits = 0

    def before_fit(self) -> None:
        """Count."""
        self.fits += 1

    def before_batch(self) -> None:
        """Note."""
        if self.training:
            self.rates.append([group["lr"] for group in self.opt.hypers])


def absent(*words: str) -> Seen:
    """No module or name of fastai holds any of the words."""
    found = set()
    for module in pkgutil.walk_packages(fastai.__path__, "fastai."):
        path = Path(fastai.__path__[0], *module.name.split(".")[1:]).with_suffix(".py")
        text = path.read_text().lower() if path.is_file() else ""
        found |= {word for word in words if f"def {word}" in text or f"class {word}" in text}
    return ("no", f"defines nothing called {' or '.join(words)}") if not found else ("partly", f"has {sorted(found)}")


def cycles(root: Path) -> Seen:
    """One cycle a phase."""
    note = Rates()
    learner(root, cbs=note).fine_tune(HEAD, freeze_epochs=HEAD)
    head = [rates[-1] for rates in note.rates]
    peaks = [place for place in range(1, len(head) - 1) if head[place - 1] < head[place] > head[place + 1]]
    said = f"fine_tune: {len(peaks)} cycles in {note.fits} runs, each with a new optimizer"
    return ("yes" if note.fits == 1 else "partly"), said


def rates(root: Path) -> Seen:
    """A slice of rates, with and without a splitter."""
    firsts = []
    for split in (True, False):
        note = Rates()
        learner(root, split=split, cbs=note).fit_one_cycle(1, slice(1e-5, 1e-3))
        firsts.append(len(set(note.rates[0])))
    said = f"rates at the first step: {firsts[0]} with a splitter of the user, {firsts[1]} without"
    return ("yes" if min(firsts) > 1 else "partly" if firsts[0] > 1 else "no"), said


def range_later(root: Path) -> Seen:
    """The range test when all layers train."""
    learn = learner(root)
    learn.freeze()
    learn.fit_one_cycle(1)
    learn.unfreeze()
    learn.lr_find(num_it=30, show_plot=False, stop_div=False)
    points = len(learn.recorder.lrs)
    return ("yes" if points >= 30 else "no"), f"{points} points of 30 after unfreeze()"


def range_ratios(root: Path) -> Seen:
    """Rates of the groups within the test."""
    note = Rates()
    learner(root, lr=[1e-4, 1e-3, 1e-2], cbs=note).lr_find(num_it=20, show_plot=False)
    same = all(len(set(rates)) == 1 for rates in note.rates)
    return ("no" if same else "yes"), f"all groups at one rate throughout the test: {same}"


def range_trace(root: Path) -> Seen:
    """The same run with it and without it."""
    ends, kept = [], True
    for found in (False, True):
        learn = learner(root, shuffle=True)
        torch.manual_seed(0)
        before = bits(learn)
        if found:
            learn.lr_find(num_it=20, show_plot=False)
            kept = torch.equal(before, bits(learn))
        learn.fit_one_cycle(2)
        ends.append(bits(learn))
    same = torch.equal(*ends)
    said = f"weights are put back: {kept}; the run after it has the bits of one without: {same}"
    return ("yes" if same else "partly" if kept else "no"), said


def norms(root: Path) -> Seen:
    """Weights and statistics of the norm layer while the backbone is frozen."""
    learn = learner(root, train_bn=False)
    learn.freeze()
    layer = learn.model[0][1]
    before = {name: value.clone() for name, value in layer.state_dict().items() if "num" not in name}
    learn.fit_one_cycle(1)
    moved = [name for name, value in before.items() if not torch.equal(value, layer.state_dict()[name])]
    return ("no" if moved else "yes"), f"moved with train_bn=False: {', '.join(moved) or 'nothing'}"


def _replica(rank: int, root: str) -> None:
    from fastai.distributed import DistributedDL, DistributedTrainer

    def broadcast(loader: Any, values: Any, source: int) -> Any:
        sent = torch.as_tensor(list(values))
        torch.distributed.broadcast(sent, source)
        return sent.tolist()

    DistributedDL._broadcast = broadcast  # its own sends the order of the data by way of a GPU
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29631", "ACCELERATE_USE_CPU": "true"}
    learn = learner(Path(root), cbs=DistributedTrainer(sync_bn=False, cpu=True))
    with learn.no_bar():
        learn.fine_tune(HEAD, freeze_epochs=HEAD)
    torch.save(bits(learn), Path(root, f"{rank}.pt"))


def replicas(root: Path) -> Seen:
    """Two processes, through the unfreezing."""
    torch.multiprocessing.start_processes(_replica, (str(root),), nprocs=2, start_method="spawn")
    one, other = (torch.load(root / f"{rank}.pt") for rank in (0, 1))
    gap = (one - other).abs().max().item()
    return ("yes" if gap == 0 else "no"), f"largest difference between two processes at the end: {gap:.3f}"


def resume_between(root: Path) -> Seen:
    """Weights and optimizer saved after an epoch, and start_epoch."""
    ends = []
    for resumed in (False, True):
        learn = learner(root)
        if not resumed:
            learn.add_cb(_SaveAt(HEAD))
            learn.fit_one_cycle(EPOCHS, 1e-2)
        else:
            learn.create_opt()
            learn.load("kept")
            learn.fit_one_cycle(EPOCHS, 1e-2, start_epoch=HEAD)
        ends.append(bits(learn))
    if not torch.equal(*ends):
        return "no", "load and start_epoch, data in one order: other weights"
    return "partly", "load and start_epoch give the same bits with data in one order; which layers train is not kept"


class _SaveAt(Callback):
    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def before_epoch(self) -> None:
        if self.epoch == self.at:
            self.learn.save("kept")


def resume_within(root: Path) -> Seen:
    """Anything that says where in an epoch to begin."""
    import inspect

    taken = [name for name in inspect.signature(Learner.fit).parameters if "start" in name]
    return "no", f"fit begins anew or at an epoch ({', '.join(taken)}), never within one"


def sizes(root: Path) -> Seen:
    """Larger data in the same learner."""
    seen: list[int] = []

    class Look(Callback):
        def before_batch(self) -> None:
            seen.append(self.x.shape[-1])

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    learn = Learner(_images(16), model, loss_func=nn.CrossEntropyLoss(), path=root, cbs=Look())
    learn.fit(1)
    learn.dls = _images(32)
    learn.fit(1)
    return ("partly" if sorted(set(seen)) == [16, 32] else "no"), "other loaders are put in by hand between two runs"


def _images(size: int) -> DataLoaders:
    data = TensorDataset(torch.randn(16, 3, size, size), torch.randint(0, 2, (16,)))
    return DataLoaders.from_dsets(data, data, bs=8, device="cpu", num_workers=0)


def plan(root: Path) -> Seen:
    """What is printed before the first batch."""
    import contextlib
    import io

    said, before = io.StringIO(), []

    class Look(Callback):
        order = -100

        def before_batch(self) -> None:
            before.append(said.getvalue())

    with contextlib.redirect_stdout(said):
        learner(root, cbs=Look()).fine_tune(1)
    shown = [word for word in ("phase", "freeze", "lr", "rate") if word in before[0]]
    return ("partly" if shown else "no"), f"printed before the first batch of phases and rates: {shown or 'nothing'}"


def diagnosis(root: Path) -> Seen:
    """Words about a run."""
    return absent("diagnos", "advise", "recommend")


def options(root: Path) -> Seen:
    """A command of its own."""
    scripts = [
        entry.name for entry in importlib.metadata.distribution("fastai").entry_points if "script" in entry.group
    ]
    training = [name for name in scripts if "fit" in name or "train" in name]
    return ("partly" if training else "no"), f"commands that it installs: {', '.join(scripts) or 'none'}"


def mistakes(root: Path) -> Seen:
    """Configurations that cannot be meant."""
    wrong = {
        "two rates for three groups": lambda learn: learn.fit_one_cycle(1, [1e-4, 1e-3]),
        "a rise of three times the run": lambda learn: learn.fit_one_cycle(1, pct_start=3.0),
        "freezing up to a tenth group of three": lambda learn: (learn.freeze_to(9), learn.fit_one_cycle(1)),
        "a negative rate": lambda learn: learn.fit_one_cycle(1, -1.0),
    }
    came = {}
    for name, make in wrong.items():
        note = Rates()
        learn = learner(root, cbs=note)
        before = bits(learn)
        try:
            make(learn)
            came[name] = "taken without a word"
        except Exception:
            came[name] = "refused" if torch.equal(before, bits(learn)) else "an error amid training"
    early = sum(each == "refused" for each in came.values())
    said = "; ".join(f"{name}: {each}" for name, each in came.items())
    return ("yes" if early == len(came) else "partly" if early else "no"), said


def checkpoints(root: Path) -> Seen:
    """Saved weights in plain PyTorch."""
    learn = learner(root)
    learn.fit(1)
    learn.save("kept", with_opt=False)
    network().load_state_dict(torch.load(root / "kept.pth", weights_only=True))
    return "yes", "save() writes the weights as torch reads them"


def early_end(root: Path) -> Seen:
    """A metric that stands still ends the head phase; the next goes on."""
    learn, epochs = learner(root), []
    for train in (learn.freeze, learn.unfreeze):
        train()
        stop = EarlyStoppingCallback("valid_loss", min_delta=100.0, patience=1)
        learn.fit(6, cbs=stop)
        epochs.append(len(learn.recorder.values))
    return ("yes" if max(epochs) < 6 else "no"), f"epochs of two phases of at most 6: {epochs}"


def main() -> None:
    """Print what was seen in one row."""
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        seen = globals()[sys.argv[2]](Path(folder))
    print("\nRESULT " + json.dumps(seen))


if __name__ == "__main__":
    main()
