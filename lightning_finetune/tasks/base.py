"""What the tasks share: how a model is built, stepped, measured, asked, optimised and kept in a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from operator import methodcaller
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric
from typing_extensions import override

from lightning_finetune.data.block.options import Stats
from lightning_finetune.data.pixels.decode import ImageSource, Size, load_image
from lightning_finetune.engine import param_groups
from lightning_finetune.engine.argument_types import check_types
from lightning_finetune.engine.layer_groups import LayerGroup, layer_groups
from lightning_finetune.engine.linear_probe import STRENGTH
from lightning_finetune.engine.processes import bring_back
from lightning_finetune.engine.snapshot import evaluating
from lightning_finetune.errors import CheckpointError, DataError, FinetuneError
from lightning_finetune.tasks.measures.confusion import Confusion, Counts
from lightning_finetune.tasks.measures.finite import CHECK_EVERY, FiniteLoss, place_of
from lightning_finetune.tasks.measures.metrics import Measures, MetricsArgument, collect
from lightning_finetune.tasks.measures.set_loss import SetLoss, set_loss_of
from lightning_finetune.tasks.shared import record
from lightning_finetune.tasks.shared.arguments import check_count, not_plain, plain, unnamed
from lightning_finetune.tasks.shared.batch_images import explained, warn_of_range
from lightning_finetune.tasks.shared.batch_parts import check_data, compare_images, images_of, target_of
from lightning_finetune.tasks.shared.on_devices import predict_all
from lightning_finetune.tasks.shared.optimizers import build_optimizer
from lightning_finetune.tasks.shared.sources import Sources, known_preprocessing, normalize, read_ahead
from lightning_finetune.tasks.shared.symmetries import TTA, mean_over_symmetries
from lightning_finetune.tasks.shared.verdicts import Judged, Verdict, by_shape

if TYPE_CHECKING:
    import pandas as pd  # heavy, and only its name is needed


class BaseTask(LightningModule, ABC):
    """A model with its loss, metrics and optimizer, and all that differs between tasks.

    The ``__init__`` of a task ends with ``self.build(locals())``, which calls the template methods
    :meth:`configure_models`, :meth:`configure_losses` and :meth:`configure_metrics`; they find the constructor's
    arguments in :attr:`arguments`. Overriding one of them swaps that part.

    Attributes:
        kind: Which kind of labels it needs of its data: ``"single"``, ``"multi"``, ``"mask"`` or one of your own.
        target_key: Where a batch holds the targets.
        output: What an exported file gives.
        judged_by: Column of :meth:`report` that is low in the worst rows.
        head_strength: Inverse strength of the L2 penalty with which a new linear head is solved.
        counted: Argument of the constructor that says how many classes there are, and what they are.
        arguments: What the constructor was given.
        model: Images ``[B, C, H, W]`` to logits.
        criterion: Logits and targets to a loss.
        num_classes: How many classes, or labels.
        classes: Their names; the data's, where it has them.
        preprocessing: How the data made images, ``{"size": [h, w], "mean": […], "std": […], "resize": …}``; what
            :meth:`predict` repeats.
        val_measures: Loss and metrics of the validation set.
        test_measures: Loss and metrics of the test set.
        origin: The checkpoint that it was loaded from, and after which epoch that was written.
        head_is_new: Whether the head has the weights that it was made with: neither trained nor loaded.
    """

    kind: ClassVar[str]
    target_key: ClassVar[str] = "label"
    output: ClassVar[str] = "probabilities: float32 [B, classes]"
    judged_by: ClassVar[str] = "f1"
    counted: ClassVar[tuple[str, str]] = ("num_classes", "classes")
    head_strength = STRENGTH

    def build(self, arguments: Mapping[str, Any]) -> None:
        """Note the constructor's ``locals()``, and build model, loss and metrics from them."""
        check_types(arguments.get("__class__", type(self)).__init__, arguments)
        self.save_hyperparameters(ignore=not_plain(arguments))
        self.arguments = {name: arg for name, arg in arguments.items() if name not in ("self", "__class__")}
        self.num_classes = check_count(*self.counted, self.arguments[self.counted[0]])
        if self.arguments.get("in_channels", 1) < 1:
            raise FinetuneError(f"Expected `in_channels` to be at least 1, got {self.arguments['in_channels']}.")
        self.classes = unnamed(self.num_classes)
        self.preprocessing: dict[str, Any] | None = None
        self.model = self.configure_models().to(memory_format=torch.channels_last)
        self.criterion = self.configure_losses()
        given: MetricsArgument | None = self.arguments["metrics"]
        metrics = collect(self.configure_metrics() if given is None else given)
        width = self.set_loss.width
        self.val_measures, self.test_measures = Measures("val", metrics, width), Measures("test", metrics, width)
        self._finite, self._checked, self._shows_loss = FiniteLoss(), set[str](), False
        self.head_is_new, self.origin = True, ""
        self.register_load_state_dict_post_hook(_head_is_known)  # type: ignore[no-untyped-call]  # torch's
        bring_back(self, record.KEY, methodcaller("learned"), BaseTask._learn)

    # -- template methods ----------------------------------------------------------------------------------------------

    def configure_models(self) -> nn.Module:
        """The model: a backbone with a head, as ``model``, ``weights``, ``head`` and ``dropout`` say it."""
        from lightning_finetune.tasks.networks.classifier import build_classifier  # only now, as it loads timm

        return build_classifier(self.arguments, self.num_classes)

    @abstractmethod
    def configure_losses(self) -> nn.Module:
        """The criterion: ``(logits, targets)`` to a scalar."""

    @abstractmethod
    def configure_metrics(self) -> dict[str, Metric]:
        """Metrics of ``(predictions, targets)``, by what follows ``val_`` and ``test_``, the chief one first."""

    def configure_optimizers(self) -> Optimizer:
        """One optimizer over all layer groups, each in a decayed and an undecayed parameter group."""
        rates = {"lr": self.arguments["lr"], "weight_decay": self.arguments["weight_decay"]}
        groups = param_groups.build(layer_groups(self, only=self.parameters()), **rates)
        return build_optimizer(self.arguments["optimizer"], groups, **rates)

    # -- what differs between tasks ------------------------------------------------------------------------------------

    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` if ``target`` cannot belong to this model."""

    def check_fit(self, logits: Tensor, target: Tensor) -> None:
        """Raise a ``DataError`` if what the model gives has another shape than ``target`` asks for."""

    def prepare_target(self, target: Tensor) -> Tensor:
        """A batch's targets as the loss takes them."""
        return target

    def metric_target(self, target: Tensor) -> Tensor:
        """Prepared targets as metrics take them."""
        return target

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities from logits; of a model that gives no logits what it gives."""
        return logits

    def predictions(self, logits: Tensor) -> Tensor:
        """What the task says, from what its model gives: metrics, pictures and files show this."""
        return self.probabilities(logits)

    @property
    def set_loss(self) -> SetLoss:
        """How the loss is meaned over a set; override it for a criterion whose batches weigh something else."""
        return set_loss_of(self.criterion)

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses of single images ``[B]``, each that of a batch of the one: weights of classes cancel in a mean."""
        pairs = zip(logits.float(), target, strict=True)
        return torch.stack([self.criterion(one[None], true[None]).detach().float() for one, true in pairs])

    def verdicts(self, predictions: Tensor, target: Tensor) -> list[Verdict]:
        """Truth and prediction of each image in words, as pictures show them, and as a row of a table.

        Args:
            predictions: What :meth:`predictions` gave for a batch.
            target: Its targets, prepared.
        """
        return by_shape(predictions, target, self.classes)

    def confusion(self) -> Counts | None:
        """A metric that counts what a confusion matrix shows; None for a task that confuses no classes."""
        return None

    def report(self, items: pd.DataFrame, confusion: Confusion | None) -> dict[str, Any]:
        """Columns of a table by which a data set is judged; the first holds the names of its rows.

        Args:
            items: The rows of :meth:`verdicts` of all images.
            confusion: What :meth:`confusion` counted.

        Raises:
            FinetuneError: The task has none.
        """
        if confusion is None:
            raise FinetuneError(f"{type(self).__name__} has no report. Look at `items`, one row per image.")
        return confusion.report()

    @abstractmethod
    def describe(self, predictions: Tensor, source: ImageSource) -> Any:
        """What :meth:`predict` says about one image, from what :meth:`predictions` gave for it."""

    def row(self, prediction: Any) -> dict[str, object]:
        """What :meth:`describe` gave as a row of ``predictions.csv``; empty for no table."""
        return {"prediction": prediction}

    def mask(self, prediction: Any) -> Any:
        """Class ids ``[h, w]`` in what :meth:`describe` gave; None where there are none."""
        return None

    @property
    def scale(self) -> Tensor:
        """The size of predictions, of which an exported file may differ by a small part."""
        return torch.ones(())

    def input_size(self, source: ImageSource, size: Size) -> Size:
        """At which size the model sees an image, where validation saw ``size``."""
        return size

    # -- what callbacks and data ask -----------------------------------------------------------------------------------

    @property
    def normalization(self) -> Stats | None:
        """Mean and standard deviation of the images that the backbone's weights were trained on, where known."""
        stats: Stats | None = getattr(self.model, "normalization", None)
        return stats

    def layer_groups(self) -> dict[str, LayerGroup]:
        """Layer groups of the model from the input to the head; a loss that learns joins the head."""
        *body, head = layer_groups(self.model, only=self.model.parameters())
        last = LayerGroup(head.name, (*head.params, *self.criterion.parameters()))
        return {group.name: group for group in (*body, last)}

    def target_of(self, batch: Any) -> Tensor:
        """The targets of a batch, prepared, or a ``DataError`` of what is none; the check waits for the device."""
        return self._target(batch, known=False)

    def _target(self, batch: Any, known: bool) -> Tensor:
        """The targets of a batch; where a check would wait for the device, unchecked if their like is ``known``."""
        target = target_of(batch, self.target_key, f"{self.target_key}s")
        prepared = self.prepare_target(target)
        if not known or target.device.type == "cpu":
            self.check_target(target)
        return prepared

    def _ask(self, images: Tensor, model: Callable[[Tensor], Tensor]) -> Tensor:
        """What a model says of images of anybody's loader; the first that are not of this package are looked at."""
        with explained(images, self.arguments.get("in_channels", images.shape[1]), self.dtype):
            answer = model(images)
        if "images" not in self._checked and (stats := self.normalization) and self.arguments.get("weights"):
            warn_of_range(images, stats)
        self._checked.add("images")
        return answer

    def check_data(self, datamodule: Any) -> None:
        """Compare a data module with the task before anything is asked of it; what it does not say is not compared.

        Raises:
            DataError: They do not fit.
        """
        kind = getattr(datamodule, "kind", self.kind)
        if kind != self.kind:
            fitting = next((name for name, task in BaseTask.known().items() if task.kind == kind), "another task")
            raise DataError(f"Expected data of kind {self.kind!r}, got {kind!r}. Train it with {fitting}.")
        named = self.preprocessing is not None or self.classes != unnamed(self.num_classes)
        known = self.classes if named else None
        check_data(datamodule, self.num_classes, self.arguments["in_channels"], self.counted, known)

    @classmethod
    def known(cls) -> dict[str, type[BaseTask]]:
        """The tasks that are imported, by name; those that others are made of are not among them."""
        children = [child for child in cls.__subclasses__() if hasattr(child, "kind")]
        return {child.__name__: child for child in children} | {
            name: task for child in cls.__subclasses__() for name, task in child.known().items()
        }

    def setup(self, stage: str) -> None:
        """Check that the data module fits."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        self._checked = {"images"} if hasattr(datamodule, "preprocessing") else set()
        bar = self.trainer.progress_bar_callback  # for which Lightning would read the loss in each step, and wait
        self._shows_loss = bar is not None and not getattr(bar, "reads_loss", False)
        self.check_data(datamodule)

    def on_validation_start(self) -> None:
        """Check the data again, now that a checkpoint may have named the classes."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        self.check_data(datamodule)
        compare_images(self.preprocessing, datamodule)

    on_test_start = on_validation_start

    def on_fit_start(self) -> None:
        """Take class names and preprocessing from the data module."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        self.check_data(datamodule)
        self.classes = list(getattr(datamodule, "classes", None) or self.classes)
        if hasattr(datamodule, "preprocessing"):
            self.preprocessing = datamodule.preprocessing()

    @property
    def new_head(self) -> nn.Linear | None:
        """The head, where it is one new linear layer over features, so that its weights can be solved."""
        linear: nn.Linear | None = getattr(self.model, "linear", None)
        return linear if self.head_is_new else None

    def head_inputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """What the head's linear layer is given for a batch, ``[B, C]``, and the targets."""
        model: Any = self.model
        return self._ask(images_of(batch), model.forward_features), self._target(batch, known=True)

    def on_train_start(self) -> None:
        """From now on the head learns."""
        self.head_is_new = False

    # -- steps ---------------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images ``[B, C, H, W]``."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            DataError: Its images or targets are not as the model takes them.
        """
        images = images_of(batch)
        logits = self._ask(images, self)
        target = self._target(batch, "training" in self._checked)
        self._checked.add("training")
        self.check_fit(logits, target)
        loss: Tensor = self.criterion(logits, target)
        self.log("train_loss", loss, prog_bar=self._shows_loss, batch_size=len(images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite."""
        if outputs:  # a subclass may have skipped the batch
            rates = [param_groups.rate_of(group) for group in self.trainer.optimizers[0].param_groups]
            self._finite.watch(outputs["loss"], batch_idx, rates)
        if (batch_idx + 1) % CHECK_EVERY == 0 or self.trainer.is_last_batch:
            self._finite.check(partial(place_of, self))

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch to loss and metrics; its ``logits``, ``predictions`` and ``target``, for callbacks."""
        return self._measure(self.val_measures, batch)

    @override
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._measure(self.test_measures, batch)

    @override
    def on_validation_epoch_start(self) -> None:
        self.val_measures.reset()

    @override
    def on_test_epoch_start(self) -> None:
        self.test_measures.reset()

    @override
    def on_validation_epoch_end(self) -> None:
        self._checked.update([] if self.trainer.sanity_checking else ["validation"])
        self._log_measures(self.val_measures)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_measures(self.test_measures)

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.predictions(self._ask(images_of(batch), self))

    def _measure(self, measures: Measures, batch: Any) -> dict[str, Tensor]:
        """Add a batch to ``measures``; what the model says of it, and its targets."""
        target = self._target(batch, "validation" in self._checked)
        logits = self._ask(images_of(batch), self)
        self.check_fit(logits, target)
        predictions = self.predictions(logits)
        measures.update(self.set_loss.sums(logits, target), predictions, self.metric_target(target))
        return {"logits": logits, "predictions": predictions, "target": target}

    def _log_measures(self, measures: Measures) -> None:
        for place, (name, value) in enumerate(measures.compute(self.classes, self.set_loss.mean).items()):
            self.log(name, value, prog_bar=place < 2, sync_dist=True)  # equal on all ranks; sync_dist asks for no more

    # -- predictions of files ------------------------------------------------------------------------------------------

    def predict(
        self, source: Sources, *, tta: TTA = "none", batch_size: int = 32, trainer: Trainer | None = None
    ) -> Any:
        """Predict images as validation saw them.

        Args:
            source: An image file, a PIL image or a uint8 array; or many: a list of these, or a folder, whose images
                are taken in sorted order.
            tta: Mean over symmetries of the image; see
                :func:`~lightning_finetune.tasks.shared.symmetries.mean_over_symmetries`.
            batch_size: Images at once.
            trainer: Whose devices share the images; each of its processes gets all predictions.

        Returns:
            One prediction for one image, a list for many.

        Raises:
            DataError: Files that are no images; names all of them.
            FinetuneError: The task was trained on data that did not say how it makes images.
        """
        return predict_all(self, source, trainer, tta=tta, batch_size=batch_size)

    def predict_each(
        self, sources: Sequence[ImageSource], *, tta: TTA = "none", batch_size: int = 32
    ) -> Iterator[tuple[ImageSource, Any]]:
        """One image after the other, with what the task says about it or the ``DataError`` of one that is unreadable.

        Args:
            sources: Image files, PIL images or uint8 arrays.
            tta: As of :meth:`predict`.
            batch_size: Images at once, and in memory.
        """
        preprocessing = known_preprocessing(self.preprocessing)
        reading = read_ahead(self._try_load, sources, ahead=2 * batch_size)
        for start in range(0, len(sources), batch_size):
            batch = sources[start : start + batch_size]
            read = list(islice(reading, len(batch)))
            rows = iter(self._rows([image for image in read if isinstance(image, Tensor)], preprocessing, tta))
            for source, image in zip(batch, read, strict=True):
                yield source, image if isinstance(image, DataError) else self.describe(next(rows), source)

    def judge(self, images: Tensor, target: Tensor, counts: Counts | None, tile: int | None) -> Judged:
        """Losses ``[B]`` and verdicts of images as :meth:`predict` sees them.

        Args:
            images: uint8 ``[B, C, H, W]``, on the device of the model.
            target: As of :meth:`target_of`.
            counts: Of :meth:`confusion`, to which they are added.
            tile: For tasks of masks, see ``predict`` of the task.

        Raises:
            FinetuneError: ``tile`` is given, and this is none.
        """
        if tile is not None:
            raise FinetuneError(f"tile: expected a task of masks, got {type(self).__name__}. Leave it out.")
        logits = self(normalize(images, known_preprocessing(self.preprocessing)))
        predictions = self.predictions(logits).float()
        if counts is not None:
            counts.update(predictions, self.metric_target(target))
        return self.losses(logits, target), self.verdicts(predictions, target)

    def _try_load(self, source: ImageSource, size: Size | None = None) -> Tensor | DataError:
        """An image at a size, by default :meth:`input_size`, uint8 ``[C, h, w]``; or what is wrong with it."""
        known = known_preprocessing(self.preprocessing)
        height, width = known["size"]
        try:
            size = self.input_size(source, (height, width)) if size is None else size
            return load_image(source, size, known["resize"], known.get("channels", 3), known.get("white"))
        except DataError as error:
            return error

    def _rows(self, images: Sequence[Tensor], preprocessing: Mapping[str, Any], tta: TTA) -> list[Tensor]:
        """Predictions of each image; neighbours of one size go through the model together."""
        device, rows = next(self.parameters()).device, list[Tensor]()
        with evaluating(self):
            for _, group in groupby(images, key=lambda image: image.shape):
                batch = normalize(torch.stack(list(group)).to(device), preprocessing)
                rows += mean_over_symmetries(lambda turned: self.predictions(self(turned)), batch, tta).float().cpu()
        return rows

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the task, and keep out what ``torch.load(weights_only=True)`` would refuse."""
        given = plain(checkpoint.get("hyper_parameters", {}))
        notes = {name: value for name, value in given.items() if name.startswith("_")}  # of LightningCLI
        accepted = record.accepted_arguments(type(self), given)
        checkpoint["hyper_parameters"] = {**notes, **accepted, "weights": False}  # the checkpoint has them
        kept = record.make_record(type(self).__name__, self.hparams, self.learned())
        checkpoint[record.KEY] = {**kept, "kind": self.kind}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take class names and preprocessing from a checkpoint of ours.

        Raises:
            CheckpointError: It is of a task of another kind, or of another network.
        """
        kept = checkpoint.get(record.KEY, {})
        if kept.get("kind", self.kind) != self.kind:
            raise CheckpointError(
                f"Expected a checkpoint of {type(self).__name__}, got one of {kept['task']}. "
                f"Name that task (--model.class_path {kept['task']}), or use load(checkpoint), which finds it."
            )
        if self.strict_loading:
            record.check_weights(self.state_dict(), checkpoint.get("state_dict", {}))
        self._learn(kept)

    def _learn(self, known: Mapping[str, Any]) -> None:
        """Take what is :meth:`learned` of ``known``."""
        for name in self.learned().keys() & known.keys():
            setattr(self, name, known[name])

    def learned(self) -> dict[str, Any]:
        """What the task knows from its data beside weights, in plain values; kept in checkpoints."""
        return {"classes": self.classes, "preprocessing": self.preprocessing}

    def card(self) -> dict[str, Any]:
        """What the user of an exported file must know of the task, in plain values."""
        learned = {"classes": self.classes, **known_preprocessing(self.preprocessing), **self.learned()}
        del learned["preprocessing"]
        return {"task": type(self).__name__, "kind": self.kind, **learned, "output": self.output}


def _head_is_known(module: Any, keys: Any) -> None:
    """After weights were loaded."""
    module.head_is_new = False
