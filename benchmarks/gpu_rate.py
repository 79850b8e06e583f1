"""How fast does a GPU train from JPEG files, and what does it wait for? The second part of ``gpu.py``.

For each network the same Trainer trains from batches that lie on the device, which is the limit, and from files, by
worker processes: an epoch in which each file is decoded, then from decoded images in memory, the head and all layers.
The busy share is that of the time in which a kernel runs, in some steps of an epoch of their own. Then the same
compiled: how often, over an unfreezing and a change of size, and how fast after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pandas as pd
import torch
from gpu_part import synchronize  # beside this file
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, IterableDataset

from lightning_finetune import FineTune, ImageClassifier, ImageData, Phase

if TYPE_CHECKING:
    from gpu_part import Part

CLASSES, TILES = 21, 80  # and files of each class


@dataclass(frozen=True)
class Size:
    """How large all is."""

    networks: tuple[str, ...] = ("tf_efficientnet_lite0", "resnet50")
    pixels: int = 224
    other: int = 160  # the size that a compiled network meets later
    batch: int = 64
    each: int = 195  # files of a class, some repeated; of more the pixels would not fit the memory for decoded images
    warm: int = 8  # batches at the start of an epoch that are not counted
    watched: int = 20  # batches whose kernels are recorded
    compiler: str = "inductor"


SMALL = Size(("test_efficientnet", "test_resnet"), 64, 96, 8, 3, 2, 3, "eager")


def run(part: Part) -> None:
    """A row for each network in each precision, then compiled."""
    size = SMALL if part.small else Size()
    for network in size.networks:
        for precision in ("bf16-mixed", "32-true"):
            found: dict[str, Any] = {}
            measure = partial(rates, part, size, network, precision, found)
            part.row(f"{network}, {precision}", measure, needs=20, so_far=found)
    for network in size.networks:
        found = {}
        measure = partial(compiled, part, size, network, found)
        part.row(f"{network}, bf16-mixed, compiled", measure, needs=25, so_far=found)


def rates(part: Part, size: Size, network: str, precision: str, found: dict[str, Any]) -> dict[str, Any]:
    """Fill ``found``: images a second, and shares of the limit, and of the time in which the GPU is busy."""
    phases = [Phase(1, "head", 1e-4), Phase(1, "all", 1e-4)]
    batches = DataLoader(Batches(size, part.device), batch_size=None)
    limit = Meter(part.device, size, ("limit of head", "limit of all"), found)
    train(part, network, precision, phases, limit, batches)
    phases = [Phase(3, "head", 1e-4), Phase(2, "all", 1e-4)]
    files = Meter(part.device, size, ("first epoch", "later", "busy, head", "all", "busy, all"), found)
    train(part, network, precision, phases, files, tiles(part, size))
    for name, most in (("first epoch", "head"), ("later", "head"), ("all", "all")):
        found[f"share, {name}"] = found[name] / found[f"limit of {most}"]
    if part.device == "cuda" and not {"busy, head", "busy, all"} <= found.keys():
        raise RuntimeError("The profiler saw no kernel; how busy the GPU is is not known.")
    return found


def compiled(part: Part, size: Size, network: str, found: dict[str, Any]) -> dict[str, Any]:
    """Fill ``found``: images a second, seconds of each epoch, and the graphs compiled before and in each."""
    phases = [Phase(1, "head", 1e-4), Phase(1, "all", 1e-4), Phase(1, "all", 1e-4, size=size.other)]
    torch._dynamo.reset()
    counter = Compiler(size.compiler)
    meter = Meter(part.device, size, ("head", "all", "other size"), found, counter)
    train(part, network, "bf16-mixed", phases, meter, tiles(part, size), counter)
    return found


def train(
    part: Part, network: str, precision: str, phases: list[Phase], meter: Meter, data: Any, compiler: Any = None
) -> None:
    """From random weights, without validation."""
    pl.seed_everything(0, verbose=False)
    model = ImageClassifier(network, num_classes=CLASSES, weights=False)
    if compiler is not None:
        model.model.compile(backend=compiler)
    trainer = pl.Trainer(
        accelerator="gpu" if part.device == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[FineTune(phases), meter],
    )
    trainer.fit(model, data)


def tiles(part: Part, size: Size) -> Any:
    """Training from files of land use."""
    table = pd.concat([pd.read_csv(part.data / "satellite/labels.csv")] * (size.each // TILES + 2))
    table = table.groupby("landuse").head(size.each + 1)
    table["valid"] = table.groupby("landuse").cumcount() == 0  # there must be some
    return ImageData.from_df(
        table,
        part.data / "satellite",
        folder="images",
        label_col="landuse",
        valid_col="valid",
        size=size.pixels,
        batch_size=size.batch,
        num_workers=part.workers,
        augment="satellite",
    )


class Batches(IterableDataset[dict[str, Tensor]]):
    """Batches as the data module gives them to the model, on the device, as many as the files make."""

    def __init__(self, size: Size, device: str) -> None:
        images = torch.randn(size.batch, 3, size.pixels, size.pixels, device=device)
        labels = torch.randint(0, CLASSES, (size.batch,), device=device)
        self.batch = {"image": images.contiguous(memory_format=torch.channels_last), "label": labels}
        self.count = CLASSES * size.each // size.batch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (dict(self.batch) for _ in range(self.count))


class Meter(Callback):
    """Images a second of each epoch after its first batches; of one whose name begins with ``busy`` the busy share.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        size: Of batches.
        epochs: Their names.
        found: To be filled, under these names.
        compiler: Whose count is noted at the start of training and at the end of each epoch, with its seconds.
    """

    def __init__(
        self, device: str, size: Size, epochs: Sequence[str], found: dict[str, Any], compiler: Compiler | None = None
    ) -> None:
        self.device, self.size, self.epochs, self.found, self.compiler = device, size, epochs, found, compiler
        self._profile: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was compiled before, to try the sizes."""
        self._count()

    def _count(self) -> None:
        if self.compiler is not None:
            counts = self.found.setdefault("graphs before, head, all, other size", [])
            counts.append(self.compiler.count - sum(counts))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch begins."""
        self._began, self._name = time.perf_counter(), self.epochs[trainer.current_epoch]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The clock starts after some batches."""
        if batch_idx == self.size.warm:
            synchronize(self.device)
            self._start = time.perf_counter()
            if self._name.startswith("busy") and self.device == "cuda":
                self._profile = profile(activities=[ProfilerActivity.CUDA])
                self._profile.start()
        if batch_idx == self.size.warm + self.size.watched and self._profile is not None:
            self._stop()

    def _stop(self) -> None:
        synchronize(self.device)
        self._profile.stop()
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset"))
        ]
        self._profile = None
        if spans:
            self.found[self._name] = busy_share(spans)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """And stops when all is done."""
        synchronize(self.device)
        end = time.perf_counter()
        count = int(trainer.num_training_batches) - self.size.warm
        if not self._name.startswith("busy"):
            self.found[self._name] = self.size.batch * count / (end - self._start)
        if self.compiler is not None:
            self.found.setdefault("seconds", []).append(round(end - self._began, 1))
        self._count()


def busy_share(spans: Sequence[tuple[float, float]]) -> float:
    """The part of the time from the first start to the last end that lies in any of ``spans``."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / (reached - min(start for start, _ in spans))


class Compiler:
    """A backend of ``torch.compile`` that counts the graphs it is given.

    Args:
        name: Of the backend that does the work.
    """

    def __init__(self, name: str) -> None:
        self.count = 0
        self._backend: Callable[..., Any] = torch._dynamo.lookup_backend(name)

    def __call__(self, graph: nn.Module, inputs: Sequence[Tensor], **options: Mapping[str, Any]) -> Any:
        """Compile a graph."""
        self.count += 1
        return self._backend(graph, inputs, **options)
