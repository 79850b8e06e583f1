"""The file of a sweep, in the words of Weights & Biases, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_finetune.errors import FinetuneError, did_you_mean

METHODS = ("grid", "random", "bayes")

_RANGES = ("uniform", "q_uniform", "int_uniform", "log_uniform_values")

KINDS = ("values", "value", *_RANGES)
"""How a parameter's values can be given."""


def read_sweep(path: Path) -> dict[str, Any]:
    """A sweep file, checked.

    Raises:
        FinetuneError: It is missing, or says something that cannot be done here.
    """
    try:
        space = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FinetuneError(f"{path}: expected a sweep file, got {error}.") from error
    for key, kind in (("method", str), ("metric", dict), ("parameters", dict), ("command", list)):
        if not isinstance(space, Mapping) or not isinstance(space.get(key), kind):
            raise FinetuneError(f"{path}: expected a sweep file with `{key}`, a {_YAML[kind]}; see docs/sweeps.md.")
    if space["method"] not in METHODS:
        raise FinetuneError(f"{path}: expected `method` to be one of {list(METHODS)}, got {space['method']!r}.")
    goal = space["metric"].get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise FinetuneError(f"{path}: expected `goal` to be minimize or maximize, got {goal!r}.")
    if not isinstance(space["metric"].get("name"), str):
        raise FinetuneError(f"{path}: expected `metric` to have a name, such as val_loss, got {space['metric']}.")
    checked = {name: _checked(path, name, spec, space["method"]) for name, spec in space["parameters"].items()}
    return {**space, "parameters": checked, "metric": {**space["metric"], "goal": goal}}


_YAML = {str: "word", dict: "mapping", list: "list"}


def kind_of(spec: Mapping[str, Any]) -> str:
    """The distribution of a parameter, by name or by what is given, as Weights & Biases reads it."""
    for name in ("distribution", "values", "value"):
        if name in spec and (name != "distribution" or spec[name] not in ("categorical", "constant")):
            return str(spec[name]) if name == "distribution" else name
    both = [spec.get("min"), spec.get("max")]
    return "int_uniform" if all(isinstance(bound, int) for bound in both) else "uniform" if None not in both else ""


def _checked(path: Path, name: str, spec: Any, method: str) -> dict[str, Any]:
    """One parameter, its bounds as numbers."""
    kind = kind_of(spec) if isinstance(spec, Mapping) else "nothing"
    if kind not in KINDS or (method == "grid" and kind not in ("values", "value")):
        known = ["values", "value"] if method == "grid" else list(KINDS)
        raise FinetuneError(
            f"{path}: expected `{name}` to have one of {known} for method {method!r}, got {spec}."
            f"{did_you_mean(kind, known)}"
        )
    if kind == "values" and not (isinstance(spec["values"], list) and spec["values"]):
        raise FinetuneError(f"{path}: expected `values` of `{name}` to be a list, got {spec['values']!r}.")
    return {**spec, **_bounds(path, name, spec, kind)} if kind in _RANGES else dict(spec)


def _bounds(path: Path, name: str, spec: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Take ``1e-4``, which YAML reads as text for want of a point, as the number that it is."""
    bounds = {bound: _number(spec.get(bound)) for bound in ("min", "max", "q") if bound in spec or bound != "q"}
    low, high, step = bounds["min"], bounds["max"], bounds.get("q", 1.0)
    numbers = {bound: value for bound, value in bounds.items() if value is not None}
    whole = kind != "int_uniform" or all(float(value).is_integer() for value in numbers.values())
    if low is None or high is None or step is None or not low <= high or step <= 0 or not whole:
        kinds = "whole numbers" if kind == "int_uniform" else "numbers"
        raise FinetuneError(
            f"{path}: expected `min` and `max` of `{name}` to be {kinds}, min <= max, got {dict(spec)}."
        )
    if kind == "log_uniform_values" and low <= 0:
        raise FinetuneError(f"{path}: expected `min` of `{name}` above 0 for {kind}, got {low}.")
    return {bound: int(value) for bound, value in numbers.items()} if kind == "int_uniform" else numbers


def _number(given: Any) -> float | None:
    try:
        return given if isinstance(given, (int, float)) else float(given)
    except (TypeError, ValueError):
        return None
