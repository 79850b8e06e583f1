"""What ``peers.py`` tries with Lightning's callbacks and finetuning-scheduler: ``peers_lightning.py LIBRARY KEY``.

Both unfreeze through ``BaseFinetuning``, so that most checks are the same run with another callback: a small network
with a norm layer, data in one order, the backbone frozen for two of four epochs.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import logging
import os
import pkgutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, EarlyStopping, LearningRateFinder, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

HEAD, EPOCHS, BATCHES = 2, 4, 8
Seen = tuple[str, str]


class Task(pl.LightningModule):
    """A backbone with a norm layer, and a head."""

    def __init__(self, *, cycle: bool = False, groups: bool = False, all_in: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cycle, self.groups, self.all_in = cycle, groups, all_in
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Scores of two classes."""
        return self.head(self.backbone(given))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross-entropy."""
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The loss, and a metric that stands still."""
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("val_loss", loss, sync_dist=True)
        self.log("still", 1.0, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """What trains, or two groups, under one cycle if asked."""
        if self.groups:
            backbone = {"params": self.backbone.parameters(), "lr": 1e-4}
            return torch.optim.SGD([backbone, {"params": self.head.parameters(), "lr": 1e-2}], lr=1e-2)
        trained = [param for param in self.parameters() if param.requires_grad or self.all_in]
        optimizer = torch.optim.SGD(trained, lr=1e-2, momentum=0.9)
        if not self.cycle:
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * BATCHES)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader(shuffle: bool = False) -> DataLoader[Any]:
    """Eight batches of eight."""
    draw = torch.Generator().manual_seed(1)
    given = torch.randn(64, 8, generator=draw)
    return DataLoader(TensorDataset(given, (given.sum(1) > 0).long()), batch_size=8, shuffle=shuffle)


def unfreezing(library: str, **options: Any) -> pl.Callback:
    """The library's callback: the head for two epochs, then everything."""
    if library == "lightning":
        return BackboneFinetuning(HEAD, backbone_initial_ratio_lr=0.1, **options)
    from finetuning_scheduler import FinetuningScheduler

    schedule = {
        0: {"params": ["head.*"], "max_transition_epoch": HEAD},
        1: {"params": ["backbone.*"], "max_transition_epoch": EPOCHS, "lr": 1e-3},
    }
    options = {"ft_schedule": schedule, "epoch_transitions_only": True, "restore_best": False, **options}
    return FinetuningScheduler(**options)


def saving(library: str, root: Path, **options: Any) -> pl.Callback:
    """A checkpoint of every epoch, or of every so many steps."""
    if library == "lightning":
        return ModelCheckpoint(root, "{epoch}-{step}", save_top_k=-1, **options)
    from finetuning_scheduler import FTSCheckpoint

    return FTSCheckpoint(dirpath=root, filename="{epoch}-{step}", monitor="val_loss", save_top_k=-1, **options)


def fit(
    task: Task,
    callbacks: list[pl.Callback],
    root: Path,
    *,
    begin: Path | None = None,
    shuffle: bool = False,
    **more: Any,
) -> pl.Trainer:
    """Train quietly, from a checkpoint if one is given."""
    options = {"accelerator": "cpu", "max_epochs": EPOCHS, "logger": False, "enable_progress_bar": False, **more}
    trainer = pl.Trainer(callbacks=callbacks, default_root_dir=root, enable_model_summary=False, **options)
    trainer.fit(task, loader(shuffle), loader(), ckpt_path=begin, weights_only=False)
    return trainer


def bits(task: nn.Module) -> torch.Tensor:
    """All parameters in a row."""
    return torch.cat([param.detach().flatten() for param in task.parameters()])


def first_line(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:140]}"


class Each(pl.Callback):
    """Calls something at one hook."""

    def __init__(self, hook: str, call: Callable[[pl.Trainer, Any], None]) -> None:
        setattr(self, hook, lambda trainer, module, *rest: call(trainer, module))


def names_of(library: str) -> Iterator[str]:
    """Every public name of a package's modules, Lightning's callbacks and tuner only."""
    package = importlib.import_module(library if library != "lightning" else "lightning.pytorch")
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if library != "lightning" or found.name.startswith(("lightning.pytorch.callbacks", "lightning.pytorch.tuner")):
            with contextlib.suppress(Exception):
                for name, value in inspect.getmembers(importlib.import_module(found.name)):
                    if str(getattr(value, "__module__", "")).startswith(package.__name__):
                        yield name


def absent(library: str, *words: str) -> Seen:
    """No name that holds any of the words."""
    found = sorted({name for name in names_of(library) if any(word in name.lower() for word in words)})
    return ("no", f"no name in it holds {' or '.join(words)}") if not found else ("partly", f"has {', '.join(found)}")


def cycles(library: str, root: Path) -> Seen:
    """One cycle a phase."""
    rates: list[float] = []
    note = Each("on_train_batch_start", lambda trainer, _: rates.append(trainer.optimizers[0].param_groups[0]["lr"]))
    try:
        fit(Task(cycle=True), [unfreezing(library), note], root)
    except Exception as error:
        return "no", f"with OneCycleLR: {first_line(error)}"
    peaks = [place for place in range(1, len(rates) - 1) if rates[place - 1] < rates[place] > rates[place + 1]]
    return ("yes" if len(peaks) == 2 else "no"), f"{len(peaks)} peaks in two phases"


def rates(library: str, root: Path) -> Seen:
    """Rates by depth."""
    found: list[list[float]] = []
    options: dict[str, Any] = {}
    if library == "finetuning_scheduler":
        schedule = {
            0: {"params": ["head.*"], "max_transition_epoch": 1},
            1: {"params": ["backbone.3.*", "backbone.1.*"], "lr": 1e-3, "max_transition_epoch": 2},
            2: {"params": ["backbone.0.*"], "lr": 1e-4, "max_transition_epoch": EPOCHS},
        }
        options = {"ft_schedule": schedule}

    def look(trainer: pl.Trainer, module: Any) -> None:
        ids = {id(param) for layer in (0, 3) for param in module.backbone[layer].parameters()}  # without the norm
        groups = trainer.optimizers[0].param_groups
        found.append(sorted({group["lr"] for group in groups if ids & {id(param) for param in group["params"]}}))

    fit(Task(), [unfreezing(library, **options), Each("on_train_batch_start", look)], root)
    if len(found[0]) > 1:
        return "yes", f"rates of the backbone at the first step: {found[0]}"
    said = f"rates of the backbone at the first step: {found[0]}, at the last: {found[-1]}"
    return ("partly" if len(found[-1]) > 1 else "no"), said


class _Milestones(LearningRateFinder):
    """The recipe of Lightning's documentation: the range test again at some epochs."""

    def __init__(self, *milestones: int, **options: Any) -> None:
        super().__init__(**options)
        self.milestones, self.points = milestones, []

    def on_fit_start(self, *args: Any, **options: Any) -> None:
        return

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch in self.milestones:
            self.lr_find(trainer, pl_module)
            self.points.append(len(self.optimal_lr.results["loss"]))


def range_later(library: str, root: Path) -> Seen:
    """The range test when all layers train."""
    if library != "lightning":
        return absent(library, "lr_find", "rangetest", "range_test", "learningratefinder")
    finder = _Milestones(0, HEAD, num_training_steps=30, early_stop_threshold=None)
    task = Task()
    task.lr = 1e-2
    try:
        fit(task, [unfreezing(library), finder], root)
    except Exception as error:
        return "no", first_line(error)
    return ("yes" if min(finder.points) >= 30 else "no"), f"points of 30 at epochs 0 and {HEAD}: {finder.points}"


def range_ratios(library: str, root: Path) -> Seen:
    """Two groups, a hundredfold apart."""
    if library != "lightning":
        return absent(library, "lr_find", "rangetest", "range_test", "learningratefinder")
    task, after = Task(groups=True), []
    task.lr = 1e-2
    look = Each("on_train_start", lambda trainer, _: after.extend(g["lr"] for g in trainer.optimizers[0].param_groups))
    fit(task, [LearningRateFinder(num_training_steps=30), look], root)
    kept = abs(after[1] / after[0] - 100) < 1
    return ("yes" if kept else "no"), f"rates 1e-4 and 1e-2 became {after[0]:.1e} and {after[1]:.1e}"


def range_trace(library: str, root: Path) -> Seen:
    """The same run with it and without it, fresh and resumed."""
    if library != "lightning":
        return absent(library, "lr_find", "rangetest", "range_test", "learningratefinder")
    ends, steps = [], []
    for resumed in (False, True):
        for finder in ([], [LearningRateFinder(num_training_steps=20, update_attr=False)]):
            pl.seed_everything(0, verbose=False)
            task = Task()
            task.lr = 1e-2
            begin = root / "one.ckpt" if resumed else None
            kept = fit(task, finder, root, begin=begin, shuffle=True)
            if not finder and not resumed:
                fit(Task(), [], root, max_epochs=1).save_checkpoint(root / "one.ckpt")
            ends.append(bits(task))
            steps.append(kept.global_step)
    same = torch.equal(ends[0], ends[1]), torch.equal(ends[2], ends[3]) and steps[2] == steps[3]
    said = f"the same bits with it as without: {same[0]} in a fresh run, {same[1]} in a resumed one"
    return {2: "yes", 1: "partly", 0: "no"}[sum(same)], said


def _norm_moved(callback: pl.Callback, root: Path) -> bool:
    task, epochs = Task(), []
    norm = task.backbone[1]
    before = {name: value.clone() for name, value in norm.state_dict().items() if "num" not in name}

    def look(trainer: pl.Trainer, module: Any) -> None:
        epochs.append(any(not torch.equal(value, norm.state_dict()[name]) for name, value in before.items()))

    fit(task, [callback, Each("on_train_epoch_end", look)], root)
    return epochs[0]  # frozen


def norms(library: str, root: Path) -> Seen:
    """Weights and statistics of the norm layer while the backbone is frozen, and what the layer computes."""
    if library == "lightning":
        moved = _norm_moved(unfreezing(library, train_bn=False), root)
        return ("no" if moved else "partly"), _norm_output(library, root, moved)
    default = _norm_moved(unfreezing(library), root)
    asked = _norm_moved(unfreezing(library, frozen_bn_track_running_stats=False), root)
    said = f"weights or statistics moved: {default} by default, {asked} with frozen_bn_track_running_stats=False"
    return ("yes" if not default else "no" if asked else "partly"), said


def _norm_output(library: str, root: Path, moved: bool) -> str:
    gaps: list[float] = []

    def look(trainer: pl.Trainer, module: Any) -> None:
        given = 3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
        mode = module.backbone.training
        with torch.no_grad():
            outputs = [module.backbone.train(training)(given) for training in (True, False)]
        module.backbone.train(mode)
        gaps.append((outputs[0] - outputs[1]).abs().max().item())

    fit(Task(), [unfreezing(library, train_bn=False), Each("on_train_epoch_end", look)], root, max_epochs=1)
    return f"weights or statistics moved: {moved}; its output in training and evaluation differs by {gaps[0]:.2f}"


def replicas(library: str, root: Path) -> Seen:
    """Two processes, through the unfreezing."""

    def compare(trainer: pl.Trainer, module: Any) -> None:
        every = trainer.strategy.all_gather(bits(module))
        head = trainer.strategy.all_gather(bits(module.head))
        if trainer.is_global_zero:
            gaps = [(each[0] - each[1]).abs().max().item() for each in (every, head)]
            (root / "gaps.json").write_text(json.dumps(gaps))

    callbacks = [unfreezing(library), Each("on_train_end", compare)]
    try:
        fit(Task(), callbacks, root, strategy="ddp_fork", devices=2)
    except Exception as error:
        return "no", first_line(error)
    every, head = json.loads((root / "gaps.json").read_text())
    said = f"largest difference between two processes at the end: {every:.3f}, in the head {head:.3f}"
    return ("yes" if every == 0 else "no"), said


def _resumes(library: str, root: Path, wanted: list[int], **when: Any) -> list[str]:
    """What came of resuming at these steps."""
    whole = Task()
    fit(whole, [unfreezing(library), saving(library, root / "kept", **when)], root)
    came = []
    for step in wanted:
        (path,) = (root / "kept").glob(f"*step={step}.ckpt")
        again = Task()
        try:
            fit(again, [unfreezing(library), saving(library, root / f"from{step}", **when)], root, begin=path)
            came.append("the same bits" if torch.equal(bits(whole), bits(again)) else "other weights")
        except Exception as error:
            came.append(first_line(error))
    return came


def resume_between(library: str, root: Path) -> Seen:
    """From the ends of the epochs around the unfreezing."""
    came = _resumes(library, root, [BATCHES, HEAD * BATCHES, (HEAD + 1) * BATCHES])
    right = sum(each == "the same bits" for each in came)
    said = f"resumed one epoch before it, at it, one after: {'; '.join(came)}"
    return ("yes" if right == 3 else "partly" if right else "no"), said


def resume_within(library: str, root: Path) -> Seen:
    """From the middle of an epoch, data in one order."""
    step = BATCHES + 3
    came = _resumes(library, root, [step], every_n_train_steps=step)
    return ("yes" if came == ["the same bits"] else "no"), f"with a plain DataLoader in one order: {came[0]}"


def sizes(library: str, root: Path) -> Seen:
    """Image sizes."""
    return absent(library, "resiz", "imagesize", "image_size")


def plan(library: str, root: Path) -> Seen:
    """What is printed or written before the first batch."""
    said = io.StringIO()
    state: dict[str, Any] = {}

    def look(trainer: pl.Trainer, module: Any) -> None:
        files = [path.name for path in root.rglob("*") if "schedule" in path.name]
        state.setdefault("text", said.getvalue())
        state.setdefault("files", files)

    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        fit(Task(), [unfreezing(library), Each("on_train_batch_start", look)], root)
    if state["files"]:
        return "partly", "the phases are written to a file; not the rates of each step"
    shown = "unfreez" in state["text"].lower()
    return ("yes" if shown else "no"), "nothing of the phases is printed or written before the first batch"


def diagnosis(library: str, root: Path) -> Seen:
    """Words about a run."""
    return absent(library, "diagnos", "advice", "recommend")


def options(library: str, root: Path) -> Seen:
    """As options of LightningCLI."""
    words = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.logger=false"]
    words += [f"--trainer.default_root_dir={root}", "--trainer.enable_progress_bar=false"]
    if library == "lightning":
        words += ["--trainer.callbacks+=BackboneFinetuning", "--trainer.callbacks.unfreeze_backbone_at_epoch=1"]
        words += ["--trainer.callbacks.backbone_initial_ratio_lr=0.01"]
        error = _command(words)
        return ("partly" if not error else "no"), error or "the one epoch and its rate are options; there are no phases"
    file = root / "schedule.yaml"
    schedule = {
        0: {"params": ["head.*"], "max_transition_epoch": 1},
        1: {"params": ["backbone.*"], "max_transition_epoch": 2, "lr": 1e-3},
    }
    file.write_text(json.dumps(schedule))
    words += ["--trainer.callbacks+=finetuning_scheduler.FinetuningScheduler"]
    words += ["--trainer.callbacks.epoch_transitions_only=true", f"--trainer.callbacks.ft_schedule={file}"]
    whole = _command(words)
    single = _command([*words, "--trainer.callbacks.ft_schedule.1.lr=0.0001"])
    if whole:
        return "no", whole
    return ("partly" if single else "yes"), f"the schedule as a file; one rate of it as an option: {single or 'taken'}"


def _command(words: list[str]) -> str:
    """What is wrong with it, if anything."""
    from lightning.pytorch.cli import LightningCLI

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader()

        def val_dataloader(self) -> Any:
            return loader()

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            LightningCLI(Task, Data, args=["fit", *words], save_config_callback=None)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1][:160]
    except Exception as error:
        return first_line(error)
    return ""


def mistakes(library: str, root: Path) -> Seen:
    """Configurations that cannot be meant."""
    if library == "lightning":
        wrong = {
            "an unfreezing after the last epoch": lambda: BackboneFinetuning(99),
            "an unfreezing at epoch -3": lambda: BackboneFinetuning(-3),
            "a negative rate": lambda: BackboneFinetuning(1, backbone_initial_lr=-1.0),
        }
    else:
        wrong = {
            "a layer that is not there": lambda: _two_phases({"params": ["trunk.*"]}),
            "a layer in two phases": lambda: _two_phases({"params": ["head.*"]}),
            "a phase after the last epoch": lambda: _two_phases({"params": ["backbone.*"]}, begins=99),
            "a negative rate": lambda: _two_phases({"params": ["backbone.*"], "lr": -1.0}),
        }
    came = {name: _refused(make, root) for name, make in wrong.items()}
    early = sum(each == "refused" for each in came.values())
    said = "; ".join(f"{name}: {each}" for name, each in came.items())
    return ("yes" if early == len(came) else "partly" if early else "no"), said


def _two_phases(last: dict[str, Any], begins: int = 1) -> pl.Callback:
    first = {"params": ["head.*"], "max_transition_epoch": begins}
    last = {"max_transition_epoch": EPOCHS, **last}
    return unfreezing("finetuning_scheduler", ft_schedule={0: first, 1: last})


def _refused(make: Callable[[], pl.Callback], root: Path) -> str:
    begun: list[bool] = []
    try:
        fit(Task(), [make(), Each("on_train_batch_start", lambda *_: begun.append(True))], root)
    except (Exception, SystemExit):
        return "an error amid training" if begun else "refused"
    return "taken without a word"


def checkpoints(library: str, root: Path) -> Seen:
    """A run goes on without the callback, from after the unfreezing."""
    fit(Task(), [unfreezing(library), saving(library, root / "kept")], root)
    (path,) = (root / "kept").glob(f"*step={(HEAD + 1) * BATCHES}.ckpt")
    try:
        torch.load(path, weights_only=True)
        plain = "weights_only reads it"
    except Exception as error:
        plain = f"weights_only does not: {first_line(error)}"
    try:
        fit(Task(), [], root, begin=path)
    except Exception as error:
        return "no", f"{plain}; a Trainer without the callback: {first_line(error)}"
    return ("yes" if plain.endswith("it") else "partly"), f"{plain}; a Trainer without the callback goes on from it"


def early_end(library: str, root: Path) -> Seen:
    """A metric that stands still ends the head phase, not the run."""
    trained: list[bool] = []
    look = Each("on_train_epoch_end", lambda _, module: trained.append(module.backbone[0].weight.requires_grad))
    if library == "lightning":
        callbacks = [BackboneFinetuning(6), EarlyStopping("still", patience=1), look]
    else:
        from finetuning_scheduler import FTSEarlyStopping

        stop = FTSEarlyStopping(monitor="still", patience=1)
        schedule = {0: {"params": ["head.*"]}, 1: {"params": ["backbone.*"], "lr": 1e-3}}
        whole = unfreezing(library, ft_schedule=schedule, epoch_transitions_only=False)
        callbacks = [whole, stop, saving(library, root / "kept"), look]
    fit(Task(), callbacks, root, max_epochs=8)
    reached = any(trained)
    return ("yes" if reached else "no"), f"of 8 epochs {len(trained)} were made, {sum(trained)} with the backbone"


def main() -> None:
    """Print what was seen of one library in one row."""
    library, key = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        seen = globals()[key](library, Path(folder))
    print("\nRESULT " + json.dumps(seen))


if __name__ == "__main__":
    main()
