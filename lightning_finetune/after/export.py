"""A trained task as one file that runs without this package: ONNX, or a program of ``torch.export``."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from timm.layers import Conv2dSame  # type: ignore[attr-defined]
from torch import Tensor, nn

from lightning_finetune.__about__ import __version__
from lightning_finetune.after.loading import load
from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.base import BaseTask
from lightning_finetune.tasks.shared.sources import known_preprocessing, normalize

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a prediction between the file and the task, as a part of their scale.

Sums of float32 in another order stay well below.
"""

Runner: TypeAlias = Callable[[Tensor], Tensor]
_SIZES = (2, 3)  # the dimensions of an image batch that are height and width


def export(model: BaseTask | str | Path, path: str | Path) -> Path:
    """Write a task as one graph from images to predictions, and check the file against the task.

    The graph takes float32 images ``[B, C, H, W]`` in 0..1 (RGB), normalises them itself and gives probabilities
    ``[B, num_classes]``, of masks ``[B, num_classes, H, W]``, or a regressor's numbers. Batch, height
    and width are free. If a model takes one size only, such as a plain vision transformer, only the batch is free, and
    a warning says so. A JSON file beside it (``model.json`` for ``model.onnx``) has class names, thresholds, sizes
    and statistics.

    Args:
        model: A trained task, or a checkpoint of one.
        path: Where to write; ``.onnx``, or ``.pt2`` for ``torch.export``.

    Returns:
        ``path``.

    Raises:
        FinetuneError: Another ending, a task that never saw data, a model that cannot be exported, or a file that
            does not give the task's own predictions. No file is left then.
        CheckpointError: ``model`` is a file that is no checkpoint of a task.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise FinetuneError(
            f"{path}: expected a file name that ends in one of {sorted(_FORMATS)}, got {path.suffix!r}."
        )
    task = model if isinstance(model, BaseTask) else load(model)
    mode, device = task.training, next(task.parameters()).device
    task.eval().cpu()  # a GPU rounds float32 in convolutions, by default, to more than the file may differ
    try:
        return _export(task, path)
    finally:
        task.to(device).train(mode)


def _export(task: BaseTask, path: Path) -> Path:
    preprocessing = known_preprocessing(task.preprocessing)
    graph = _Graph(task, preprocessing)
    failures = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, path.name)
        for free in (("batch", "height", "width"), ("batch",)):
            try:
                run = _FORMATS[path.suffix](_program(graph, free), draft, task.output.partition(":")[0])
                differences = [_difference(run, task, preprocessing, shape) for shape in _shapes(graph, free)]
            except Exception as error:  # torch's exporters raise errors of many classes, with no base in common
                if isinstance(error, FinetuneError):
                    raise
                failures.append(f"{', '.join(free)} free: {type(error).__name__}: {_first_line(error)}")
                continue
            _report(path, free, failures, max(differences))
            card = draft.with_suffix(".json")
            said = json.dumps(_card(task, graph, path, free), indent=2, ensure_ascii=False)
            card.write_text(said, encoding="utf-8", errors="backslashreplace")  # names of folders need not be UTF-8
            draft.replace(path)
            card.replace(path.with_suffix(".json"))
            return path
    reasons = "\n  ".join(failures)
    raise FinetuneError(f"{path}: {type(task).__name__}'s model cannot be exported:\n  {reasons}")


class _Graph(nn.Module):
    """Images in 0..1 to probabilities, with nothing that depends on a size in Python."""

    mean: Tensor
    std: Tensor

    def __init__(self, task: BaseTask, preprocessing: Mapping[str, Any]) -> None:
        super().__init__()
        contiguous = copy.deepcopy(task.model).to(memory_format=torch.contiguous_format)
        self.model = contiguous.float().eval()
        self.predictions = task.predictions
        self.stride = int(getattr(task.model, "stride", 1))
        self.size: tuple[int, int] = tuple(preprocessing["size"])
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocessing[name], dtype=torch.float32)[:, None, None])
        for layer in self.model.modules():
            if type(layer) is Conv2dSame:
                layer.__class__ = _SameConv2d

    def forward(self, image: Tensor) -> Tensor:
        """Pads to the stride here, so that the model's own padding, which asks whether it must, is never needed."""
        height, width = image.shape[-2:]
        down, right = ((side + self.stride - 1) // self.stride * self.stride - side for side in (height, width))
        if self.stride == 1:
            return self.predictions(self.model((image - self.mean) / self.std))
        padded = nn.functional.pad(image, (0, right, 0, down), mode="replicate")
        predictions = self.predictions(self.model((padded - self.mean) / self.std))
        return nn.functional.pad(predictions, (0, -right, 0, -down))  # a slice would make torch ask whether it is one


class _SameConv2d(Conv2dSame):
    """timm's, with its padding in integers alone: of the original's rounding, torch.export makes minutes."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride, dilation in zip(
            x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            whole, rest = (kernel - 1) * dilation, (side - 1) % stride
            total = whole - rest if whole >= stride - 1 else max(whole - rest, 0)
            pads = [total // 2, total - total // 2, *pads]
        padded = nn.functional.pad(x, pads)
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _program(graph: _Graph, free: Sequence[str]) -> torch.export.ExportedProgram:
    """``graph`` as torch.export sees it on an example whose sides differ from each other and from the size."""
    dynamic = torch.export.Dim.DYNAMIC
    sizes = _SIZES if "height" in free else ()
    height, width = (side + (32 * (k + 1) if sizes else 0) for k, side in enumerate(graph.size))
    example = torch.rand(2, len(graph.get_buffer("mean")), height, width)
    shapes = {"image": {0: dynamic, **dict.fromkeys(sizes, dynamic)}}
    with torch.no_grad():
        return torch.export.export(graph, (example,), dynamic_shapes=shapes, strict=False)


def _onnx(program: torch.export.ExportedProgram, path: Path, output: str) -> Runner:
    """Write ONNX, with a name for what it gives; what runs the file."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise FinetuneError(
            f"ONNX needs {error.name}, which is not installed: pip install 'lightning-finetune[export]'. "
            "A file name that ends in .pt2 needs nothing more."
        ) from error
    written = torch.onnx.export(program, dynamo=True, output_names=[output], verbose=False)
    cast("torch.onnx.ONNXProgram", written).save(path)  # None only for the old exporter
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def _pt2(program: torch.export.ExportedProgram, path: Path, output: str) -> Runner:
    """Write a program of torch.export; what runs the file."""
    torch.export.save(program, path)
    run: Runner = torch.export.load(path).module()
    return run


_FORMATS = {".onnx": _onnx, ".pt2": _pt2}


def _shapes(graph: _Graph, free: Sequence[str]) -> list[tuple[int, ...]]:
    """Batches to check: several numbers of images and, where they are free, several odd sizes."""
    height, width = graph.size
    sizes = [(height, width), (height + 13, width + 7), (2 * height, width + 1)] if "height" in free else [graph.size]
    channels = len(graph.get_buffer("mean"))
    return [
        (count, channels, *size) for count, size in zip((1, 3, 2), sizes * (1 if len(sizes) > 1 else 3), strict=True)
    ]


def _difference(run: Runner, task: BaseTask, preprocessing: Mapping[str, Any], shape: Sequence[int]) -> float:
    """How far the file's predictions are from the task's, for noise of all brightness.

    Raises:
        FinetuneError: Further than :data:`TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        expected = task.predictions(task(normalize(pixels, preprocessing))).float()
    with torch.no_grad():
        given = run(pixels.float() / 255)
    same = given.shape == expected.shape
    difference = float(((given - expected).abs() / task.scale.cpu()).max()) if same else float("inf")
    if not difference <= TOLERANCE:
        raise FinetuneError(
            f"The exported file was expected to give the task's predictions within {TOLERANCE:g}, but for images "
            f"{list(shape)} it differs by {difference:.2g}. Nothing is written. Does the task's `forward` do more "
            "than its `model`?"
        )
    return difference


def _card(task: BaseTask, graph: _Graph, path: Path, free: Sequence[str]) -> dict[str, Any]:
    """What the user of the file must know, in plain values."""
    channels = len(graph.get_buffer("mean"))
    kind = {1: "grey", 3: "RGB"}.get(channels, "all channels")
    return {
        "format": "torch.export" if path.suffix == ".pt2" else "onnx",
        **task.card(),
        "stride": graph.stride,
        "free": list(free),
        "input": f"image: float32 [B, {channels}, H, W], {kind} in 0..1; the graph normalises",
        "tolerance": TOLERANCE,
        "versions": {"lightning_finetune": __version__, **{name: version(name) for name in ("torch", "timm")}},
    }


def _report(path: Path, free: Sequence[str], failures: Sequence[str], difference: float) -> None:
    if failures:
        log.warning("%s takes images of one size only: %s", path, "; ".join(failures))
    log.info("%s: %s free; differs from the task by at most %.1e.", path, ", ".join(free), difference)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
