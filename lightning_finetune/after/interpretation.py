"""Where a trained task is wrong: the worst images, the classes it confuses, and how good each class is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_finetune.data.batches.data_module import ImageDataModule
from lightning_finetune.data.batches.dataset import Batch, BatchKey, ImageDataset
from lightning_finetune.data.block.splits import Split
from lightning_finetune.data.pixels.decode import visible
from lightning_finetune.errors import DataError, FinetuneError
from lightning_finetune.show.figures import Shown
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.measures.confusion import MATRIX, Confusion, Counts, Pairs, drawable, pairs_of, rates
from lightning_finetune.tasks.multilabel import MultiLabelClassifier
from lightning_finetune.tasks.prediction import known_preprocessing, normalize
from lightning_finetune.tasks.shared.batch import check_data

if TYPE_CHECKING:
    import pandas as pd  # heavy, as matplotlib is, and only their names are needed
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Interpretation:
    """What a task says about a validation set.

    Attributes:
        task: That was asked.
        images: The validation images.
        size: Height and width at which they were seen.
        items: One row an image, by its position: ``file``, ``loss``, ``prediction``, ``truth`` and ``probability`` (of
            the predicted class; of several labels the least that a true answer got); for masks ``file``, ``loss`` and
            ``pixel_accuracy``.
        counts: True by predicted class ``[C, C]``, in images or pixels; of labels ``[L, 2, 2]``, absent before present;
            of more than 1,000 classes those pairs that occurred.
    """

    task: BaseTask
    images: ImageDataset
    size: tuple[int, int]
    items: pd.DataFrame
    counts: Counts

    def top_losses(self, k: int = 9) -> pd.DataFrame:
        """The rows of :attr:`items` with the ``k`` largest losses, the largest first."""
        worst: pd.DataFrame = self.items.nlargest(k, "loss")
        return worst

    def plot_top_losses(self, k: int = 9) -> Figure:
        """The images of :meth:`top_losses`, read again, under prediction, loss and probability; masks: true, found."""
        from lightning_finetune.show.figures import draw_predictions  # only now, as it loads matplotlib

        rows = self.top_losses(k)
        return draw_predictions([self._shown(int(place), row) for place, row in rows.iterrows()], "Top losses")  # type: ignore[call-overload]  # the index is of positions

    def confusion_matrix(self) -> pd.DataFrame:
        """Images, or pixels, by true class (rows) and predicted class; of labels the four counts of each.

        Raises:
            FinetuneError: There are more than 1,000 classes.
        """
        names = self.task.classes
        if isinstance(self.counts, Pairs):
            raise FinetuneError(
                f"Expected at most {MATRIX} classes for a matrix, got {len(names)}. Use most_confused() or report()."
            )
        if self.counts.ndim == 3:
            columns = ["true_negative", "false_positive", "false_negative", "true_positive"]
            return _frame(self.counts.reshape(-1, 4), index=names, columns=columns)
        return _frame(self.counts, index=names, columns=names)

    def plot_confusion_matrix(self) -> Figure:
        """:meth:`confusion_matrix` as a figure; of labels one small matrix each.

        Raises:
            FinetuneError: There are more than 1,000 classes, or more than 100 labels.
        """
        from lightning_finetune.show.figures import draw_confusion  # only now, as it loads matplotlib

        if not drawable(self.counts):
            raise FinetuneError(f"Expected fewer classes for a picture, got {len(self.task.classes)}. Use report().")
        return draw_confusion(self.counts, self.task.classes)

    def most_confused(self, min_val: int = 1) -> pd.DataFrame:
        """Pairs of classes of which one was taken for the other at least ``min_val`` times, the most frequent first.

        Raises:
            FinetuneError: The task finds labels, which do not exclude each other.
        """
        if self.task.kind == "multi":
            raise FinetuneError("Expected classes that exclude each other, got labels. Use report() instead.")
        pairs, names = pairs_of(self.counts).confused(max(min_val, 1)), np.array(self.task.classes)
        return _frame({"truth": names[pairs.true], "prediction": names[pairs.found], "count": pairs.times})

    def report(self) -> pd.DataFrame:
        """Precision, recall, F1, IoU and support of each class, by scikit-learn's definitions; NaN for 0 / 0."""
        hits, false, missed = rates(self.counts, self.task.num_classes)
        with np.errstate(invalid="ignore"):
            columns = {
                "precision": hits / (hits + false),
                "recall": hits / (hits + missed),
                "f1": 2 * hits / (2 * hits + false + missed),
                "iou": hits / (hits + false + missed),
                "support": hits + missed,
            }
        return _frame(columns, index=self.task.classes)

    def save(self, folder: str | Path) -> None:
        """Write all tables (CSV) and figures (PNG) that there are to a folder, which is made."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.items.sort_values("loss", ascending=False).to_csv(target / "losses.csv", index=False)
        self.report().to_csv(target / "report.csv", index_label="class")
        self.plot_top_losses().savefig(target / "top_losses.png", dpi=100)
        if self.task.kind != "multi":
            self.most_confused().to_csv(target / "most_confused.csv", index=False)
        if not isinstance(self.counts, Pairs):
            self.confusion_matrix().to_csv(target / "confusion_matrix.csv")
        if drawable(self.counts):
            self.plot_confusion_matrix().savefig(target / "confusion_matrix.png", dpi=100)

    def _shown(self, place: int, row: pd.Series[Any]) -> Shown:
        batch = self.images[BatchKey(np.array([place]), 0, self.size)]
        pixels = visible(batch["image"][0]).permute(1, 2, 0).numpy()
        if "mask" in batch:
            with _evaluating(self.task):
                found = _probabilities(self.task, batch)[1].argmax(1)[0].cpu().numpy()
            said = f"loss {row['loss']:.2f}, right {row['pixel_accuracy']:.0%}"
            return Shown(pixels, "", said, None, (_bare(batch["mask"][0], self.task), found))
        said = f"{row['prediction']} / {row['loss']:.2f} / {row['probability']:.2f}"
        return Shown(pixels, row["truth"], said, bool(row["prediction"] != row["truth"]))


def interpret(model: BaseTask, data: ImageDataModule) -> Interpretation:
    """Run a trained task once over the validation images; kept are numbers of each image, not the images.

    Each loss is that of a batch of the one image: weights of classes cancel in it where the criterion is a weighted
    mean. Runs in this process, on the model's device.

    Args:
        model: One that was trained or loaded: ``interpret(load("best.ckpt"), data)``.
        data: An :class:`~lightning_finetune.ImageData` with the classes that the model was trained on.

    Raises:
        DataError: The data is of another kind, or has other classes than the model.
        FinetuneError: The data is not an ImageData, or the model never saw data.
    """
    if not isinstance(data, ImageDataModule):
        raise FinetuneError(f"Expected `data` to be an ImageData, got {type(data).__name__}.")
    known_preprocessing(model.preprocessing)
    check_data(data, model.kind, model.num_classes, model.arguments["in_channels"])
    if data.classes != model.classes:
        raise DataError(f"Expected `data` with the classes {model.classes}, got {data.classes}.")
    data.setup("validate")
    images, counts = data.dataset(Split.VALID), Confusion(model)
    rows: list[dict[str, Any]] = []
    with _evaluating(model):
        for batch in data.val_dataloader():
            rows += _judge(model, batch, counts)
    files = [_name(images.images[row]) for row in images.rows]
    items = _frame(rows)
    items.insert(0, "file", files)
    return Interpretation(model, images, data.size, items, counts.compute())


def _frame(data: Any, **names: Any) -> pd.DataFrame:
    """A data frame."""
    import pandas as pd  # only now, as it takes half a second to load

    frame: pd.DataFrame = pd.DataFrame(data, **names)
    return frame


@contextmanager
def _evaluating(model: BaseTask) -> Iterator[None]:
    """Eval mode without gradients; the mode is put back."""
    mode = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(mode)


def _probabilities(model: BaseTask, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and probabilities of a batch of the loader, made as the model was trained."""
    logits = model(normalize(batch["image"].to(model.device), known_preprocessing(model.preprocessing)))
    return logits, model.probabilities(logits).float()


def _judge(model: BaseTask, batch: Batch, counts: Confusion) -> list[dict[str, Any]]:
    """A row for each image of a batch, which is added to ``counts``."""
    logits, found = _probabilities(model, batch)
    target = batch[model.target_key].to(model.device)
    target = target.long() if model.kind == "mask" else target
    model.check_target(target)
    losses = [float(model.criterion(one[None], true[None])) for one, true in zip(logits, target, strict=True)]
    counts.update(found, target)
    if isinstance(model, MultiLabelClassifier):
        said = _of_labels(model, found, found > found.new_tensor(model.thresholds), target)
    else:
        said = _of_masks(model, found, target) if model.kind == "mask" else _of_classes(model, found, target)
    return [{"loss": loss, **row} for loss, row in zip(losses, said, strict=True)]


def _of_classes(model: BaseTask, found: Tensor, target: Tensor) -> list[dict[str, Any]]:
    best, names = found.max(1), model.classes
    triples = zip(best.indices.tolist(), target.tolist(), best.values.tolist(), strict=True)
    return [{"prediction": names[p], "truth": names[t], "probability": value} for p, t, value in triples]


def _of_labels(model: BaseTask, found: Tensor, present: Tensor, target: Tensor) -> list[dict[str, Any]]:
    least = found.where(target.bool(), 1 - found).amin(1).tolist()
    triples = zip(present, target.bool(), least, strict=True)
    return [{"prediction": _names(model, p), "truth": _names(model, t), "probability": v} for p, t, v in triples]


def _names(model: BaseTask, present: Tensor) -> str:
    return " ".join(name for name, has in zip(model.classes, present.tolist(), strict=True) if has)


def _of_masks(model: BaseTask, found: Tensor, target: Tensor) -> list[dict[str, Any]]:
    ignore = model.arguments["ignore_index"]
    counted = torch.ones_like(target, dtype=torch.bool) if ignore is None else target != ignore
    right = ((found.argmax(1) == target) & counted).sum((1, 2)) / counted.sum((1, 2))
    return [{"pixel_accuracy": share} for share in right.tolist()]


def _bare(mask: Tensor, model: BaseTask) -> npt.NDArray[np.int64]:
    """A mask for an overlay, with -1 where pixels count for nothing."""
    ids: npt.NDArray[np.int64] = mask.long().numpy()
    return np.where(ids == model.arguments["ignore_index"], -1, ids)


def _name(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else ""
