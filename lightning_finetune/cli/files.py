"""What the command does with a checkpoint and files: predict images, export."""

from __future__ import annotations

import csv
import inspect
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image
from rich.progress import track

from lightning_finetune.after.loading import load
from lightning_finetune.cli.outputs import claim, taken
from lightning_finetune.data.pixels.decode import load_image, visible
from lightning_finetune.errors import DataError, FinetuneError, first_ten
from lightning_finetune.show.figures.predictions import overlay
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.shared.csv_cells import safe
from lightning_finetune.tasks.shared.sources import list_sources
from lightning_finetune.tasks.shared.symmetries import TTA

_TABLE, _MASKS, _OVERLAYS = "predictions.csv", "masks", "overlays"
"""What a prediction writes."""


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
    """
    _import(task)
    model, folder = load(ckpt_path), Path(out)
    pieces = {name: value for name, value in (("tile", tile), ("scale", scale)) if value is not None}
    if not {*pieces} <= {*inspect.signature(model.predict_each).parameters}:
        name = type(model).__name__
        raise FinetuneError(f"{next(iter(pieces))}: expected a task of masks, got {name}. Leave it out.")
    if not Path(images).exists():
        raise DataError(f"--images: expected a folder or an image, got {images!r}, which is not there.")
    sources, many = list_sources(images)
    root = Path(images) if many else Path(images).parent
    bad: list[str] = []
    claim(folder, (_TABLE, _MASKS, _OVERLAYS), overwrite)
    with _Writer(folder, root, model, sources, overwrite) as writer:
        pairs = model.predict_each(sources, tta=tta, batch_size=batch_size, **pieces)
        for source, prediction in track(pairs, "Predicting", total=len(sources)):
            if isinstance(prediction, DataError):
                bad.append(str(prediction))
            else:
                writer.write(Path(source), prediction)
    print(f"{len(sources) - len(bad)} of {len(sources)} images are predicted. The results are in {folder}")  # noqa: T201
    listing = folder / "unreadable.txt"
    listing.unlink(missing_ok=True)  # of a run before
    if bad:
        listing.write_text("\n".join(bad), encoding="utf-8", errors="backslashreplace")
        print(f"{len(bad)} cannot be read; all are in {listing}:{first_ten(bad)}")  # noqa: T201


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


class _Writer:
    """What a task says about files, one at a time: as rows of ``predictions.csv``, as ``masks`` and as ``overlays``."""

    def __init__(self, folder: Path, root: Path, task: BaseTask, sources: Sequence[Any], overwrite: bool) -> None:
        self.folder, self.root, self.task, self.overwrite = folder, root, task, overwrite
        self.stems = Counter(Path(source).with_suffix("") for source in sources)
        self.table: csv.DictWriter[str] | None = None
        self.draws = False
        self.files = ExitStack()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def write(self, path: Path, prediction: Any) -> None:
        """Write what was predicted for one image."""
        row, mask = self.task.row(prediction), self.task.mask(prediction)
        if row:
            self._add({"file": str(path.relative_to(self.root)), **row})
        if mask is not None:
            self._draw(path, mask)

    def _add(self, row: dict[str, object]) -> None:
        if self.table is None:
            # Names of files need not be UTF-8, but what is written must.
            file = self._new_table()
            self.table = csv.DictWriter(self.files.enter_context(file), list(row))
            self.table.writer.writerow(map(safe, row))
        self.table.writerow({name: safe(value) for name, value in row.items()})

    def _new_table(self) -> TextIO:
        path = self.folder / _TABLE
        try:
            mode: Literal["w", "x"] = "w" if self.overwrite else "x"
            return path.open(mode, newline="", encoding="utf-8", errors="backslashreplace")
        except FileExistsError as error:  # of a run that began after this one
            raise taken(path) from error

    def _new_folders(self) -> None:
        try:
            for name in (_MASKS, _OVERLAYS):
                (self.folder / name).mkdir(exist_ok=self.overwrite)
        except FileExistsError as error:
            raise taken(self.folder / _MASKS) from error
        self.draws = True

    def _draw(self, path: Path, ids: npt.NDArray[np.int64]) -> None:
        """Masks lie in the folders of the images; two images of one name keep their endings."""
        if ids.max() > 255:
            raise FinetuneError(f"Expected at most 256 classes for mask files of 8 bits, got {self.task.num_classes}.")
        name = path.stem if self.stems[path.with_suffix("")] == 1 else path.name
        place = path.relative_to(self.root).parent / f"{name}.png"
        if not self.draws:
            self._new_folders()
        mask = Image.fromarray(ids.astype(np.uint8))
        mask.putpalette(_palette())
        _save(mask, self.folder / _MASKS / place)
        channels = self.task.arguments["in_channels"]
        white = (self.task.preprocessing or {}).get("white")
        pixels = visible(load_image(path, ids.shape, channels=channels, white=white)).permute(1, 2, 0).numpy()
        _save(Image.fromarray(overlay(pixels, ids)), self.folder / _OVERLAYS / place)


def _palette() -> list[int]:
    """The colours of overlays for 256 ids, one channel after the other."""
    colours = [round(255 * channel) for colour in colormaps["tab20"].colors for channel in colour]  # type: ignore[attr-defined]
    return (colours * (256 // 20 + 1))[: 3 * 256]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
