"""What the command does with a checkpoint and files: predict images, export."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from rich.progress import Progress

from lightning_finetune.after.loading import load
from lightning_finetune.cli.machine import claim
from lightning_finetune.cli.prediction_files import MASKS, OVERLAYS, TABLE, Writer
from lightning_finetune.data.pixels.decode import ImageSource
from lightning_finetune.engine.processes import gathered, leave_group
from lightning_finetune.errors import DataError, FinetuneError, first_ten
from lightning_finetune.run.noise import without_noise
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.shared.on_devices import predict_share
from lightning_finetune.tasks.shared.sources import list_sources
from lightning_finetune.tasks.shared.symmetries import TTA


@dataclass(frozen=True)
class Devices:
    """Where images are predicted, as arguments of Lightning's Trainer.

    Args:
        accelerator: gpu, cpu, …
        devices: How many of them; auto takes all GPUs, or one process on the CPU.
        strategy: How processes are started.
        num_nodes: Machines, all of which see the folder that is written to.
        precision: bf16-mixed is faster on a GPU.
    """

    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    strategy: str = "auto"
    num_nodes: int = 1
    precision: str | None = None

    def trainer(self) -> Trainer:
        """A Trainer that leaves no files.

        Raises:
            FinetuneError: There is no such device.
        """
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        settings: dict[str, Any] = {**dict.fromkeys(quiet, False), **asdict(self)}
        try:
            return Trainer(**settings)
        except (MisconfigurationException, ValueError) as error:
            raise FinetuneError(f"--trainer: {error}") from error


def export_checkpoint(ckpt_path: str, out: str, task: str | None = None) -> None:
    """Write a checkpoint as one file that runs without this package, and check it against the model.

    Args:
        ckpt_path: Checkpoint of a task of this package.
        out: File to write; ends in .onnx, or in .pt2 for torch.export.
        task: Dotted name of the checkpoint's task, where that is not of this package.
    """
    from lightning_finetune.after.export import export  # only now, as it loads timm

    _import(task)
    path = export(ckpt_path, out)
    print(f"{path} and {path.with_suffix('.json')} are written; the file gives the model's own predictions.")  # noqa: T201


def predict_files(
    ckpt_path: str,
    images: str,
    out: str = "predictions",
    tta: TTA = "none",
    batch_size: int = 32,
    tile: int | None = None,
    scale: float | None = None,
    task: str | None = None,
    overwrite: bool = False,
    trainer: Devices = Devices(),  # frozen
) -> None:
    """Predict an image or a folder of images, and write what the model says.

    Classes and labels go to ``predictions.csv``; masks to ``masks/*.png`` (class ids, with a palette) and, laid over
    the image, to ``overlays/*.png``, at the size of the image. What cannot be read is left out, and listed in
    ``unreadable.txt``.

    Args:
        ckpt_path: Checkpoint of a task of this package.
        images: A folder, or an image.
        out: Folder to write to, which is made; one that holds predictions already is refused.
        tta: Mean over symmetries of the image.
        batch_size: Images at once.
        tile: For masks: side in pixels of the overlapping pieces in which larger images are seen; 1024 by default.
        scale: For masks: pixels of the model for one of the image; 1 sees a large aerial photo at its own resolution.
        task: Dotted name of the checkpoint's task, where that is not of this package.
        overwrite: Write over predictions that are there.
        trainer: The devices, which share the images.
    """
    _import(task)
    model = load(ckpt_path)
    pieces = {name: value for name, value in (("tile", tile), ("scale", scale)) if value is not None}
    if not {*pieces} <= {*inspect.signature(model.predict_each).parameters}:
        name = type(model).__name__
        raise FinetuneError(f"{next(iter(pieces))}: expected a task of masks, got {name}. Leave it out.")
    if not Path(images).exists():
        raise DataError(f"--images: expected a folder or an image, got {images!r}, which is not there.")
    sources, many = list_sources(images)
    root = Path(images) if many else Path(images).parent
    with without_noise():
        try:
            run = trainer.trainer()
            if run.is_global_zero:
                claim(Path(out), (TABLE, MASKS, OVERLAYS), overwrite)
            writer = Writer(Path(out), root, model, sources, overwrite, run.global_rank, run.world_size)
            bad = _write_share(run, writer, model, sources, batch_size=batch_size, tta=tta, **pieces)
            _finish(run, writer, bad, len(sources))
        finally:
            leave_group()


def _write_share(
    run: Trainer, writer: Writer, model: BaseTask, sources: Sequence[ImageSource], **options: Any
) -> list[tuple[int, str]]:
    """Predict and write this process's share; the place of each image that cannot be read, and why."""
    bad: list[tuple[int, str]] = []
    with writer, Progress(disable=not run.is_global_zero, refresh_per_second=2) as progress:
        bar = progress.add_task("Predicting", total=len(sources))

        def take(place: int, source: ImageSource, prediction: Any) -> None:
            if isinstance(prediction, DataError):
                bad.append((place, str(prediction)))
            else:
                writer.write(place, Path(str(source)), prediction)
            progress.advance(bar, run.world_size)

        predict_share(run, model, sources, take, **options)
    return bad


def _finish(run: Trainer, writer: Writer, bad: list[tuple[int, str]], count: int) -> None:
    """Have the first process make one table of all shares, and say what was read."""
    unread = [reason for _, reason in sorted(pair for share in gathered(bad) for pair in share)]
    if not run.is_global_zero:
        return
    writer.merge()
    print(f"{count - len(unread)} of {count} images are predicted. The results are in {writer.folder}")  # noqa: T201
    listing = writer.folder / "unreadable.txt"
    listing.unlink(missing_ok=True)  # of a run before
    if unread:
        listing.write_text("\n".join(unread), encoding="utf-8", errors="backslashreplace")
        print(f"{len(unread)} cannot be read; all are in {listing}:{first_ten(unread)}")  # noqa: T201


def _import(task: str | None) -> None:
    """Make a task known to :func:`load`, which takes no code from a checkpoint.

    Raises:
        FinetuneError: There is none of that name.
    """
    module, _, name = (task or "").rpartition(".")
    try:
        kind = getattr(import_module(module), name) if task else BaseTask
    except (ImportError, AttributeError, ValueError) as error:
        raise FinetuneError(f"--task: expected the dotted name of a task, got {task!r}: {error}.") from error
    if not (isinstance(kind, type) and issubclass(kind, BaseTask)):
        raise FinetuneError(f"--task: expected the dotted name of a task, got {task!r}, a {type(kind).__name__}.")
