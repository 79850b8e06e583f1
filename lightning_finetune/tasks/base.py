"""What the tasks share: how a model is built, stepped, measured, optimised and kept in a checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from lightning_finetune.engine import param_groups
from lightning_finetune.engine.layer_groups import LayerGroup, layer_groups
from lightning_finetune.errors import CheckpointError
from lightning_finetune.tasks.evaluation import Evaluates
from lightning_finetune.tasks.measures.finite import CHECK_EVERY, FiniteLoss
from lightning_finetune.tasks.measures.metrics import Measures, MetricsArgument, collect
from lightning_finetune.tasks.prediction import Predicts
from lightning_finetune.tasks.shared import record
from lightning_finetune.tasks.shared.arguments import check_num_classes, plain
from lightning_finetune.tasks.shared.batch import check_data, explained, images_of, target_of
from lightning_finetune.tasks.shared.optimizers import build_optimizer

if TYPE_CHECKING:
    from lightning_finetune.tasks.networks.backbones import Stats  # it loads timm


class BaseTask(Predicts, Evaluates):
    """A model with its loss, metrics and optimizer.

    The ``__init__`` of a task ends with ``self.build(locals())``, which calls the template methods
    :meth:`configure_models`, :meth:`configure_losses` and :meth:`configure_metrics`; they find the constructor's
    arguments in :attr:`arguments`. Overriding one of them swaps that part.

    Attributes:
        arguments: What the constructor was given.
        model: Images ``[B, C, H, W]`` to logits.
        criterion: Logits and targets to a loss.
        num_classes: How many classes, or labels.
        classes: Their names; the data's, where it has them.
        preprocessing: How the data made images; what :meth:`predict` repeats.
        head_is_new: Whether the head has the weights that it was made with: neither trained nor loaded.
    """

    target_key: ClassVar[str] = "label"
    kind: ClassVar[str]

    def build(self, arguments: Mapping[str, Any]) -> None:
        """Build model, loss and metrics from the constructor's ``locals()``."""
        self.arguments = {name: arg for name, arg in arguments.items() if name not in ("self", "__class__")}
        self.num_classes = check_num_classes(self.arguments["num_classes"])
        self.classes = [str(number) for number in range(self.num_classes)]
        self.preprocessing = None
        self.model = self.configure_models().to(memory_format=torch.channels_last)
        self.criterion = self.configure_losses()
        given: MetricsArgument | None = self.arguments["metrics"]
        metrics = collect(self.configure_metrics() if given is None else given)
        width = self.set_loss.width
        self.val_measures, self.test_measures = Measures("val", metrics, width), Measures("test", metrics, width)
        self._finite = FiniteLoss()
        self.head_is_new = True
        self.register_load_state_dict_post_hook(_head_is_known)  # type: ignore[no-untyped-call]  # torch's

    # -- template methods ----------------------------------------------------------------------------------------------

    @abstractmethod
    def configure_models(self) -> nn.Module:
        """The model."""

    @abstractmethod
    def configure_losses(self) -> nn.Module:
        """The criterion: ``(logits, targets)`` to a scalar."""

    @abstractmethod
    def configure_metrics(self) -> dict[str, Metric]:
        """Metrics of ``(probabilities, targets)``, by what follows ``val_`` and ``test_``, the chief one first."""

    def configure_optimizers(self) -> Optimizer:
        """One optimizer over all layer groups, each in a decayed and an undecayed parameter group."""
        rates = {"lr": self.arguments["lr"], "weight_decay": self.arguments["weight_decay"]}
        groups = param_groups.build(layer_groups(self, only=self.parameters()), **rates)
        return build_optimizer(self.arguments["optimizer"], groups, **rates)

    @abstractmethod
    def check_target(self, target: Tensor) -> None:
        """Raise a ``DataError`` if ``target`` cannot belong to this model."""

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

    def setup(self, stage: str) -> None:
        """Check that the data module fits."""
        check_data(
            getattr(self.trainer, "datamodule", None), self.kind, self.num_classes, self.arguments["in_channels"]
        )

    def on_fit_start(self) -> None:
        """Take class names and preprocessing from the data module; those of a checkpoint may be of other data."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
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
        features: Tensor = model.forward_features(images_of(batch))
        return features, target_of(batch, self.target_key)

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
            DataError: It is of one image, and the model's batch norm needs more.
        """
        images = images_of(batch)
        with explained(images):
            logits = self(images)
        loss: Tensor = self.criterion(logits, target_of(batch, self.target_key))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite."""
        if outputs:  # a subclass may have skipped the batch
            rates = [float(group["lr"]) for group in self.trainer.optimizers[0].param_groups]
            self._finite.watch(outputs["loss"], batch_idx, rates)
        if (batch_idx + 1) % CHECK_EVERY == 0 or self.trainer.is_last_batch:
            self._finite.check(self._phase)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities of one batch."""
        return self.probabilities(self(images_of(batch)))

    def _phase(self) -> str:
        groups = layer_groups(self, only=self.parameters())
        trained = [group.name for group in groups if any(param.requires_grad for param in group.params)]
        callbacks: Any = self.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        plans = [callback.plan_of_run for callback in callbacks if hasattr(type(callback), "plan_of_run")]
        plan = max(plans, key=lambda plan: len(plan.phases), default=None)
        phase = "" if plan is None else f"phase {plan.phase_of(self.current_epoch) + 1} of {len(plan.phases)}, "
        return f"epoch {self.current_epoch} ({phase}layer groups {trained[0]} to {trained[-1]} train)"

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the task, and keep out what ``torch.load(weights_only=True)`` would refuse."""
        hyper_parameters = plain(checkpoint.get("hyper_parameters", {}))
        checkpoint["hyper_parameters"] = {**hyper_parameters, "weights": False}  # the checkpoint has them
        kept = record.make_record(type(self).__name__, self.hparams, self.learned())
        checkpoint[record.KEY] = {**kept, "kind": self.kind}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take class names and preprocessing from a checkpoint of ours.

        Raises:
            CheckpointError: It is of a task of another kind.
        """
        kept = checkpoint.get(record.KEY, {})
        if kept.get("kind", self.kind) != self.kind:
            raise CheckpointError(
                f"Expected a checkpoint of {type(self).__name__}, got one of {kept['task']}. "
                f"Name that task (--model.class_path {kept['task']}), or use load(checkpoint), which finds it."
            )
        for name, value in kept.items():
            if name in self.learned():
                setattr(self, name, value)

    def learned(self) -> dict[str, Any]:
        """What the task knows from its data beside weights, in plain values; kept in checkpoints."""
        return {"classes": self.classes, "preprocessing": self.preprocessing}


def _head_is_known(module: Any, keys: Any) -> None:
    """After weights were loaded."""
    module.head_is_new = False
