"""Configurations that an earlier version saved: what they say of things that are gone is left out, and said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch.utilities import rank_zero_warn

GONE = {("fine_tune", "feature_cache"): "frozen layers run in every epoch"}
"""Options that no longer exist, by their group and name, and what holds instead."""

IMPLIED = {("fine_tune", "feature_cache"): {"recipe": "lessons"}}
"""What was the only way while an option existed."""


def take_old_configurations() -> None:
    """Let this process's parsers read configurations of before; names of modules that moved need no help."""
    set_loader("yaml", _load, (yaml.YAMLError,))


_LOAD: Callable[[str], Any] = get_loader("yaml")  # jsonargparse's own


def _load(text: str) -> Any:
    content = _LOAD(text)
    if isinstance(content, dict):
        for options in [content, *content.values()]:  # they lie under a subcommand's name, or under none
            if isinstance(options, dict):
                _leave_out(options)
    return content


def _leave_out(options: dict[str, Any]) -> None:
    for (group, name), instead in GONE.items():
        given = options.get(group)
        if isinstance(given, dict) and name in given:
            del given[name]
            options[group] = {**IMPLIED[group, name], **given}
            rank_zero_warn(f"`{group}.{name}` is left out, which an earlier version knew: {instead}. Delete its line.")
