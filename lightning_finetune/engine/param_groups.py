"""Parameter groups of an optimizer, one for each layer group (and weight decay), made once and never changed.

All groups exist from the first step; freezing only toggles ``requires_grad``. Adding groups during training, as
Lightning's ``BaseFinetuning`` does, breaks schedulers, resume and the names of what is logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_finetune.engine.layer_groups import LayerGroup
from lightning_finetune.errors import LayerGroupError, UnsupportedError, first_ten

Group = dict[str, Any]


def build(groups: Sequence[LayerGroup], *, lr: float, weight_decay: float) -> list[Group]:
    """Parameter groups for a new optimizer: each layer group in a decayed and an undecayed half.

    Norms and biases (parameters of fewer than two dimensions) are not decayed, as in the lessons.

    Args:
        groups: From the input to the head.
        lr: Learning rate of every group until a schedule sets it.
        weight_decay: Of the decayed halves.
    """
    halves: list[Group] = []
    for group in groups:
        for suffix, decay, dims in (("", weight_decay, "many"), ("/no_decay", 0.0, "few")):
            params = [param for param in group.params if (param.ndim >= 2) == (dims == "many")]
            if params:
                halves.append({"params": params, "name": group.name + suffix, "lr": lr, "weight_decay": decay})
    return halves


@dataclass(frozen=True)
class Layout:
    """How an optimizer's parameter groups map to layer groups, and back to the groups its module made.

    Attributes:
        layers: For each parameter group, the index of its layer group; None: its parameters are frozen by their author
            and in no layer group, so that its rate is left alone.
        original: The groups before :func:`split`, where it had to split; the form in which checkpoints are written,
            so that they also load without this package.
    """

    layers: tuple[int | None, ...]
    original: tuple[Group, ...] | None = None


def split(optimizer: Optimizer, groups: Sequence[LayerGroup]) -> Layout:
    """Split the optimizer's parameter groups in place, so that none holds parameters of two layer groups.

    Every other hyper-parameter of a group goes to each of its parts. An optimizer that is already grouped so is left
    as it is. Its state stays, which torch keeps by parameter. Frozen parameters that are in no layer group stay with
    the first part of their parameter group.

    Args:
        optimizer: Any torch optimizer.
        groups: From the input to the head; together they hold every parameter of the optimizer that has a gradient.

    Raises:
        LayerGroupError: The optimizer holds parameters that no group does.
        UnsupportedError: It can have one parameter group only.
    """
    place = {id(param): index for index, group in enumerate(groups) for param in group.params}
    held = [param for group in optimizer.param_groups for param in group["params"]]
    unknown = [tuple(param.shape) for param in held if param.requires_grad and id(param) not in place]
    if unknown:
        raise LayerGroupError(
            f"The optimizer holds {len(unknown)} parameters that are not the module's; shapes:{first_ten(unknown)}"
        )
    owners = [{place.get(id(param)) for param in group["params"]} - {None} for group in optimizer.param_groups]
    if all(len(owner) <= 1 for owner in owners):
        return Layout(tuple(next(iter(owner), None) for owner in owners))
    if isinstance(optimizer, LBFGS):
        raise UnsupportedError(
            "LBFGS has one parameter group for all, so the rates of layer groups cannot differ. Use another optimizer, "
            "or GradualUnfreezing, which leaves its rate alone."
        )
    original = tuple({**group, "params": list(group["params"])} for group in optimizer.param_groups)
    parts = [part for index, group in enumerate(original) for part in _parts(group, index, groups, len(original) > 1)]
    optimizer.param_groups[:] = parts
    return Layout(tuple(place.get(id(part["params"][0])) for part in parts), original)


def _parts(group: Group, index: int, groups: Sequence[LayerGroup], several: bool) -> list[Group]:
    """One for each layer group; what is frozen and in none stays with the first, else in a group of its own."""
    own = {id(param): param for param in group["params"]}
    suffix = f"/{group.get('name', f'pg{index}')}" if several else ""
    parts: list[Group] = []
    for layer in groups:
        params = [own.pop(id(param)) for param in layer.params if id(param) in own]
        if params:
            parts.append({**group, "params": params, "name": layer.name + suffix})
    if not parts:
        return [group]
    parts[0]["params"] += own.values()
    return parts


def set_rates(optimizer: Optimizer, layout: Layout, lrs: Sequence[float] | None, momentum: float | None) -> None:
    """Set each parameter group's learning rate, and the momentum of all.

    Args:
        optimizer: Grouped by :func:`split` or :func:`build`.
        layout: What :func:`split` gave.
        lrs: One rate for each layer group, from the input to the head; None leaves them alone.
        momentum: SGD's ``momentum`` or Adam's first beta; None leaves it alone, and so do optimizers without either.

    Raises:
        UnsupportedError: It has other groups by now.
    """
    own_rates(optimizer)
    if len(optimizer.param_groups) != len(layout.layers):
        raise UnsupportedError(
            f"Expected the optimizer to keep its {len(layout.layers)} parameter groups, got "
            f"{len(optimizer.param_groups)}: somebody added or removed some during the run, so that no plan says the "
            "rates of all. Give it all parameters in `configure_optimizers`; those that are frozen do not change."
        )
    for group, layer in zip(optimizer.param_groups, layout.layers, strict=True):
        if layer is None:
            continue
        if lrs is not None:
            set_rate(group, lrs[layer])
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        elif momentum is not None and "momentum" in group:
            group["momentum"] = momentum


def rate_of(group: Group) -> float | Tensor:
    """The learning rate of a parameter group as it is now; a copy, there, where the device holds it."""
    lr: float | Tensor = group["lr"]
    return lr.detach().clone() if isinstance(lr, Tensor) else lr


def own_rates(optimizer: Optimizer) -> None:
    """Give each parameter group a rate of its own: a tensor that was given for all is shared by all."""
    shared = {id(optimizer.defaults.get("lr"))}
    for group in optimizer.param_groups:
        if isinstance(group.get("lr"), Tensor):
            if id(group["lr"]) in shared:
                group["lr"] = group["lr"].clone()
            shared.add(id(group["lr"]))


def ratios(optimizer: Optimizer) -> list[float]:
    """Each parameter group's rate over the highest; all alike where the optimizer finds its own."""
    lrs = [float(group["lr"] or 0.0) for group in optimizer.param_groups]
    top = max(lrs)
    return [lr / top for lr in lrs] if top > 0 else [1.0] * len(lrs)


def scale_rates(optimizer: Optimizer, schedulers: Iterable[LRScheduler], lr: float) -> None:
    """Set the highest rate to ``lr`` and keep the ratios.

    Args:
        optimizer: Any torch optimizer.
        schedulers: The module's own, with those that they chain.
        lr: For the peak of the schedule, or without one for the rate itself.
    """
    own_rates(optimizer)
    peaks = ("initial_lr", "max_lr", "min_lr")
    peak = max(float(group.get(key, 0.0)) for group in optimizer.param_groups for key in ("lr", *peaks))
    factor = lr / peak if peak > 0 else 1.0
    for group in optimizer.param_groups:
        set_rate(group, group["lr"] * factor)
        for key in peaks:
            if key in group:
                group[key] = group[key] * factor
    for scheduler in schedulers:
        if hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]


def forget_curvature(optimizer: Optimizer) -> None:
    """Let LBFGS begin anew, as what it knows of the loss is of other parameters; other optimizers know nothing such."""
    if isinstance(optimizer, LBFGS):
        optimizer.state.clear()


def set_rate(group: Group, lr: float) -> None:
    """Set the rate of one parameter group, which may be a tensor; one that has none (it finds its own) keeps none."""
    if isinstance(group["lr"], Tensor):  # capturable optimizers keep it on the device
        group["lr"].fill_(lr)
    elif group["lr"] is not None:
        group["lr"] = lr


def merge_state(
    state: Mapping[str, Any], optimizer: Optimizer, layout: Layout, order: Sequence[Parameter] | None = None
) -> dict[str, Any]:
    """The optimizer's state in the module's own groups: what a checkpoint holds.

    Args:
        state: ``optimizer.state_dict()`` in our groups.
        optimizer: The optimizer that gave it.
        layout: With ``original``, else ``state`` is returned as it is.
        order: Of the parameters by which ``state`` numbers them, and the new one will; None: that of the optimizer.
    """
    if layout.original is None:
        return dict(state)
    if order is None:
        return _regrouped(state, optimizer.param_groups, layout.original)
    return {"state": dict(state["state"]), "param_groups": _placed(layout.original, _places(order))}


def split_state(state: Mapping[str, Any], optimizer: Optimizer, layout: Layout) -> dict[str, Any]:
    """The inverse of :func:`merge_state`: a checkpoint's state in the optimizer's groups of now."""
    if layout.original is None or len(state["param_groups"]) != len(layout.original):
        return dict(state)
    return _regrouped(state, layout.original, optimizer.param_groups)


def _regrouped(state: Mapping[str, Any], before: Sequence[Group], now: Sequence[Group]) -> dict[str, Any]:
    """A state whose parameters are numbered as in the groups ``before``, numbered as in those of ``now``."""
    old, new = ([param for group in groups for param in group["params"]] for groups in (before, now))
    places = _places(new)
    slots = {places[id(old[number])]: slot for number, slot in state["state"].items()}
    return {"state": dict(sorted(slots.items())), "param_groups": _placed(now, places)}


def _places(params: Iterable[Parameter]) -> dict[int, int]:
    return {id(param): place for place, param in enumerate(params)}


def _placed(groups: Iterable[Group], places: Mapping[int, int]) -> list[Group]:
    """Parameter groups as a state has them: places in the order of all, instead of parameters."""
    return [{**group, "params": [places[id(param)] for param in group["params"]]} for group in groups]
