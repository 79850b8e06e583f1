"""Weights for a model: from a file or a state dict, matched by name, or by order where another package named them."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_finetune.errors import CheckpointError, first_ten

StateDict: TypeAlias = Mapping[str, Tensor]
Weights: TypeAlias = "bool | str | Path | dict[str, Tensor]"

_log = logging.getLogger(__name__)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")
_HEADS = frozenset({"head", "heads", "head_dist", "classifier", "fc", "last_linear", "aux1", "aux2", "AuxLogits"})


def read_file(path: str | Path) -> Any:
    """What a ``.pt``, ``.pth``, ``.ckpt`` or ``.safetensors`` file holds; nothing in it is ever executed.

    Raises:
        CheckpointError: No such file, or not one that torch or safetensors wrote.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file of weights, there is none. Check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _check_parts(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever they trip over in a damaged file
        raise CheckpointError(
            f"{path}: expected a file that torch.save or safetensors wrote, with tensors and plain values only; "
            f"it cannot be read ({type(error).__name__}). It may be truncated, or hold pickled code, which is refused."
        ) from error


def _check_parts(path: Path) -> None:
    """Torch packs nothing: what unpacks to more than the file holds is made to fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            whole = sum(part.file_size for part in archive.infolist())
        if whole > 2 * path.stat().st_size:
            raise ValueError(f"it would unpack to {whole} bytes")


def state_dict_of(content: Any, origin: str) -> StateDict:
    """The tensors in what a file held: bare, or under a key that training scripts use (``state_dict``, ``model``).

    Args:
        content: From :func:`read_file`, or a state dict.
        origin: Names the content in an error.

    Raises:
        CheckpointError: It holds no tensors by name.
    """
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None and tensors:
            return tensors
        content = inner
    raise CheckpointError(f"{origin}: expected a state dict (names to tensors), found none in it.")


def load_weights(module: nn.Module, weights: str | Path | StateDict, *, part: bool = False) -> None:
    """Load weights into ``module``: every tensor of the module must be given, in its shape.

    Names may carry a prefix (a checkpoint of a whole task holds ``model.backbone.…``), and the file may hold a
    classifier that the module lacks. Where no name matches but all shapes match in order (the same network, written by
    another package), tensors are taken by order. A first convolution for RGB is adapted to other numbers of channels.

    Args:
        module: Changed in place.
        weights: A file or a state dict.
        part: The module is only a part of the network whose weights these are; the rest is left.

    Raises:
        CheckpointError: Unreadable, or tensors that are missing, left over or of another shape.
    """
    origin = str(weights) if isinstance(weights, (str, Path)) else "weights"
    content = read_file(weights) if isinstance(weights, (str, Path)) else weights
    expected = module.state_dict()
    given = _with_input_channels(state_dict_of(content, origin), expected)
    matched = _by_name(given, expected) or _by_order(given, expected, origin)
    _check({name: matched[name] for name in expected if name in matched} if part else matched, expected, origin)
    module.load_state_dict({**expected, **{name: matched[name] for name in expected if name in matched}})


def _with_input_channels(given: StateDict, expected: StateDict) -> StateDict:
    """``given`` with its first convolution adapted to the input channels of ``expected``, where only they differ."""
    from timm.models import adapt_input_conv  # only now, as timm takes a second to load

    source = next((name for name, tensor in given.items() if tensor.ndim == 4), None)
    target = next((tensor for tensor in expected.values() if tensor.ndim == 4), None)
    if source is None or target is None:
        return given
    have, want = given[source].shape, target.shape
    if have[1] != 3 or have[1] == want[1] or (have[0], *have[2:]) != (want[0], *want[2:]):
        return given
    return {**given, source: adapt_input_conv(want[1], given[source])}


def _by_name(given: StateDict, expected: StateDict) -> dict[str, Tensor]:
    """``given`` under the names of ``expected``: the prefix is cut under which most names match. Empty: none does."""
    first = next(iter(expected))
    prefixes = {name[: -len(first)] for name in given if name.endswith(first)}
    whole = sorted(prefix for prefix in prefixes if not prefix or prefix.endswith("."))
    if not whole:
        return {}
    best = max(whole, key=lambda prefix: sum(prefix + name in given for name in expected))
    return {name.removeprefix(best): tensor for name, tensor in given.items() if name.startswith(best)}


def _by_order(given: StateDict, expected: StateDict, origin: str) -> dict[str, Tensor]:
    tensors = list(given.values())[: len(expected)]
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in expected.values()]:
        return dict(given)
    left = len(given) - len(tensors)
    _log.info("%s: no names in common; took %d tensors by order, left %d.", origin, len(tensors), left)
    return dict(zip(expected, tensors, strict=True))


def _check(matched: StateDict, expected: StateDict, origin: str) -> None:
    missing = [name for name in expected if name not in matched and not name.endswith("num_batches_tracked")]
    extra = [name for name in matched if name not in expected and _HEADS.isdisjoint(name.split("."))]
    shapes = [
        f"{name}: {tuple(matched[name].shape)} in place of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in matched and matched[name].shape != tensor.shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{origin}: expected the weights of this model, got those of another."
            + (f" Missing:{first_ten(missing)}" if missing else "")
            + (f"\nNot in the model:{first_ten(extra)}" if extra else "")
            + (f"\nOf another shape:{first_ten(shapes)}" if shapes else "")
            + "\nGive the file that belongs to `model`, or the `model` that belongs to the file."
        )
