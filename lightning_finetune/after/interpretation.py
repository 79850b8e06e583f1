"""Where a trained task is wrong: the worst images, the classes it confuses, and how good each class is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch import Trainer

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.batches.dataset import Batch, BatchKey, ImageDataset
from lightning_finetune.data.batches.loader import ImageLoader
from lightning_finetune.data.batches.sampling import BatchSampler
from lightning_finetune.data.block.splits import Split
from lightning_finetune.data.pixels.decode import visible
from lightning_finetune.engine.processes import gathered
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.errors import FinetuneError
from lightning_finetune.show.figures.content import Shown
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import MATRIX, Confusion, Counts, Ints
from lightning_finetune.tasks.shared.batch_parts import compare_images
from lightning_finetune.tasks.shared.csv_cells import safe
from lightning_finetune.tasks.shared.on_devices import ask
from lightning_finetune.tasks.shared.sources import known_preprocessing
from lightning_finetune.tasks.shared.tiling import TILE
from lightning_finetune.tasks.shared.verdicts import Verdict

if TYPE_CHECKING:
    import pandas as pd  # heavy, as matplotlib is, and only their names are needed
    from matplotlib.figure import Figure

_SHOWN = 1024  # pixels of a side of an image in a picture of several


@dataclass(frozen=True, repr=False)
class Interpretation:
    """The predictions of a task on a validation set.

    Attributes:
        task: The model.
        images: The validation images.
        size: Height and width at which the model saw them.
        items: One row per image, by its position: ``file``, ``loss``, and what the task says of it: ``prediction``,
            ``truth`` and ``probability`` (of the predicted class; of several labels the least that a true answer got);
            of masks ``pixel_accuracy``.
        confusion: How often which class was taken for which; None where the task tells no classes apart, or more than
            1,000.
        tile: Side of the pieces into which larger images were cut, if it was given.
    """

    task: BaseTask
    images: ImageDataset
    size: tuple[int, int]
    items: pd.DataFrame
    confusion: Confusion | None
    tile: int | None = None

    def __repr__(self) -> str:
        """The three worst images; a notebook would else print every row."""
        seen = f"{len(self.items):,} images at {self.size[0]} x {self.size[1]} pixels, the worst:"
        return f"Interpretation of {type(self.task).__name__}: {seen}\n{self.top_losses(3).to_string(index=False)}"

    @property
    def counts(self) -> Ints:
        """True by predicted class ``[C, C]``, in images or pixels; of labels ``[L, 2, 2]``, absent before present.

        Raises:
            FinetuneError: The task tells no classes apart, or more than 1,000.
        """
        return self._known_confusion().counts

    def top_losses(self, k: int = 9) -> pd.DataFrame:
        """The rows of :attr:`items` with the ``k`` largest losses, the largest first."""
        worst: pd.DataFrame = self.items.nlargest(k, "loss")
        return worst

    def plot_top_losses(self, k: int = 9) -> Figure:
        """The images of :meth:`top_losses`, read again, under prediction and loss; of masks the true one beside it."""
        from lightning_finetune.show.figures.predictions import draw_predictions  # only now, as it loads matplotlib

        worst = self.top_losses(k)
        pairs = zip(worst.index.tolist(), worst["loss"].tolist(), strict=True)
        return draw_predictions(
            [self._shown(place, loss) for place, loss in pairs], self._title("Top losses"), self.task.classes
        )

    def confusion_matrix(self) -> pd.DataFrame:
        """Images, or pixels, by true class (rows) and predicted class; of labels the four counts of each.

        Raises:
            FinetuneError: The task tells no classes apart, or more than 1,000.
        """
        confusion = self._known_confusion()
        rows = confusion.counts.reshape(len(confusion.classes), -1)
        return _frame(rows, index=confusion.classes, columns=confusion.columns)

    def plot_confusion_matrix(self) -> Figure:
        """:meth:`confusion_matrix` as a figure; of labels one small matrix each.

        Raises:
            FinetuneError: The task tells no classes apart, more than 1,000 of them, or more than 100 labels.
        """
        from lightning_finetune.show.figures.confusion import draw_confusion  # only now, as it loads matplotlib

        return draw_confusion(self._known_confusion().panels(), self._title("Confusion"))

    def most_confused(self, min_val: int = 1) -> pd.DataFrame:
        """Pairs of classes of which one was taken for the other at least ``min_val`` times, the most frequent first.

        Raises:
            FinetuneError: The task tells no classes apart, or more than 1,000, or finds labels, which do not exclude
                each other.
        """
        return _frame(self._known_confusion().pairs(min_val), columns=["truth", "prediction", "count"])

    def report(self) -> pd.DataFrame:
        """Precision, recall, F1, IoU and support of each class, by scikit-learn's definitions; NaN for 0 / 0.

        Raises:
            FinetuneError: The task tells no classes apart, or more than 1,000.
        """
        report = _frame(self.task.report(self.items, self.confusion))
        return _frame(report.set_index(report.columns[0]))

    def worst(self, k: int = 10) -> pd.DataFrame:
        """The ``k`` rows of :meth:`report` with the lowest F1, or what else the task is judged by.

        A class that no image shows, such as the one of ``ignore_index``, cannot be judged and is left out.
        """
        report = self.report()
        shown = report[report["support"] > 0] if "support" in report else report
        return _frame(shown.sort_values(self.task.judged_by).head(k).reset_index())

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables that there are of this task, by the names of their files."""
        tables = {"losses": self.items.sort_values("loss", ascending=False)}
        with suppress(FinetuneError):
            tables["report"] = self.report().reset_index()
        with suppress(FinetuneError):
            tables["confusion_matrix"] = self.confusion_matrix().reset_index(names="")
            tables["most_confused"] = self.most_confused()
        return tables

    def save(self, folder: str | Path) -> None:
        """Write all tables (CSV) and figures (PNG) that there are to a folder, which is made."""
        from lightning_finetune.show.figures.saving import save  # only now, as it loads matplotlib

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables().items():
            cells = table.map(safe).rename(columns=safe)
            cells.to_csv(target / f"{name}.csv", index=False, encoding="utf-8", errors="backslashreplace")
        save(self.plot_top_losses(), target / "top_losses.png", 100)
        with suppress(FinetuneError):
            save(self.plot_confusion_matrix(), target / "confusion_matrix.png", 100)

    def _title(self, what: str) -> str:
        return f"{what} of {self.task.origin}" if self.task.origin else what

    def _known_confusion(self) -> Confusion:
        if self.confusion is None:
            raise FinetuneError(
                f"Expected a task that tells at most {MATRIX} classes apart, got {type(self.task).__name__} with "
                f"{self.task.num_classes}. Look at `items`, one row per image."
            )
        return self.confusion

    def _shown(self, place: int, loss: float) -> Shown:
        batch = self.images[BatchKey(np.array([place]), 0, self.size)]
        pixels = visible(batch["image"][0]).permute(1, 2, 0).numpy()
        with evaluating(self.task):
            _, (verdict,) = _judge(self.task, batch, self.tile)
        words = f"{verdict.prediction}, loss {loss:.2f}"
        masks = None if verdict.masks is None else (_thinned(verdict.masks[0]), _thinned(verdict.masks[1]))
        return Shown(_thinned(pixels), verdict.truth, words, verdict.wrong, masks)


def interpret(
    model: BaseTask, data: ImageDataModule, *, tile: int | None = None, trainer: Trainer | None = None
) -> Interpretation:
    """Run a trained task once over the validation images; kept are numbers of each image, not the images.

    Each loss is that of a batch of the one image: weights of classes cancel in it where the criterion is a weighted
    mean. Of an image that is seen in pieces, a loss that is no sum over pixels (Lovász, a module of your own) is the
    mean over parts of it.

    Args:
        model: One that was trained or loaded: ``interpret(load("best.ckpt"), data)``.
        data: An :class:`~lightning_finetune.ImageData` with the classes that the model was trained on.
        tile: For masks: side in pixels of the pieces in which larger images are seen; see
            ``predict`` of the task.
        trainer: Whose devices share the images; each of its processes gets the whole. None: in this process, on the
            model's device.

    Raises:
        DataError: The data is of another kind, or has other classes than the model.
        FinetuneError: The data is not an ImageData, or the model never saw data.
    """
    if not isinstance(data, ImageDataModule):
        raise FinetuneError(f"Expected `data` to be an ImageData, got {type(data).__name__}.")
    known_preprocessing(model.preprocessing)
    model.check_data(data)
    data.serve(model)
    if tile is None and max(data.size) <= TILE:  # else they are larger on purpose
        compare_images(model.preprocessing, data, ("size", "resize", "white"))
    data.setup("validate")
    images, judging = data.dataset(Split.VALID), _Judging(model, tile)
    if trainer is None:
        with evaluating(model):
            for batch in _batches(data, images, trainer):
                judging.take(batch)
    else:
        with _attached(data, trainer):
            ask(trainer, model, partial(_batches, data, images), judging.take)
    items = _frame(judging.all_rows())
    items.insert(0, "file", [_name(images.images[row]) for row in images.rows])
    return Interpretation(model, images, data.size, items, judging.confusion(), tile)


class _Judging:
    """What is kept of the images of this process."""

    def __init__(self, model: BaseTask, tile: int | None) -> None:
        self.model, self.tile, self.counts = model, tile, model.confusion()
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def take(self, batch: Batch) -> None:
        """Judge a batch of the loader."""
        if self.counts is not None:
            self.counts.to(self.model.device)
        losses, verdicts = _judge(self.model, batch, self.tile, self.counts)
        found = ({"loss": loss, **verdict.row} for loss, verdict in zip(losses, verdicts, strict=True))
        self.rows += zip(batch["index"].tolist(), found, strict=True)

    def all_rows(self) -> list[dict[str, Any]]:
        """Those of all processes, by the position of the image."""
        placed = dict(pair for share in gathered(self.rows) for pair in share)
        return [placed[place] for place in sorted(placed)]

    def confusion(self) -> Confusion | None:
        """That of all processes."""
        return None if self.counts is None else self.counts.confusion(self.model.classes)


@contextmanager
def _attached(data: ImageDataModule, trainer: Trainer) -> Iterator[None]:
    """Have the loaders of ``data`` know the processes of a Trainer that runs something else."""
    before, data.trainer = data.trainer, trainer
    try:
        yield
    finally:
        data.teardown("validate")
        data.trainer = before


def _batches(data: ImageDataModule, images: ImageDataset, trainer: Trainer | None) -> Iterable[Batch]:
    """This process's validation images; large ones one at a time, as workers would hold batches of them in advance."""
    if max(data.size) <= TILE:
        return data.val_dataloader()
    world_size, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
    share = {"world_size": world_size, "rank": rank}
    one = BatchSampler(len(images), 1, lambda: data.size, train=False, shuffle=False, seed=0, **share)
    return ImageLoader(images, one, num_workers=0, pin_memory=False)


def _judge(
    model: BaseTask, batch: Batch, tile: int | None, counts: Counts | None = None
) -> tuple[list[float], list[Verdict]]:
    """Losses and verdicts of a batch of the loader, made as the model was trained."""
    losses, verdicts = model.judge(
        batch["image"].to(model.device), model.target_of(batch).to(model.device), counts, tile
    )
    return losses.tolist(), verdicts


def _thinned(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Every n-th pixel of an image ``[h, w, ...]`` that is larger than a picture can show."""
    step = -(-max(pixels.shape[:2]) // _SHOWN)
    return pixels if step == 1 else pixels[::step, ::step].copy()


def _frame(data: Any, **names: Any) -> pd.DataFrame:
    """A data frame."""
    import pandas as pd  # only now, as it takes half a second to load

    frame: pd.DataFrame = pd.DataFrame(data, **names)
    return frame


def _name(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else ""
