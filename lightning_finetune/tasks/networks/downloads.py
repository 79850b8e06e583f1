"""Downloads of weights: where no network is, they fail in seconds."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from lightning_finetune.errors import FinetuneError

WAIT = 5.0
"""Seconds in which a server must answer."""

HUB = "huggingface.co"


def from_hub(build: Callable[[], nn.Module], name: str) -> nn.Module:
    """What ``build`` gives after it has downloaded the weights of ``name``, or found them where it kept them before.

    Raises:
        FinetuneError: It could not.
    """
    try:
        with _impatient():
            return build()
    except Exception as error:  # each hub client raises errors of its own, with no base in common
        raise FinetuneError(
            f"`weights=True` needs the pretrained weights of {name!r}, which could not be downloaded "
            f"({type(error).__name__}: {error}). Give a file, weights='file.safetensors', or start from random "
            "weights with weights=False. The default model needs no download."
        ) from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections are waited for some seconds; a hub that cannot be reached is not asked for a minute."""
    from huggingface_hub import constants  # only now, as most runs need none of it

    waited, offline = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    socket.setdefaulttimeout(WAIT if waited is None else waited)
    constants.HF_HUB_OFFLINE = offline or not _reachable(os.environ.get("HF_ENDPOINT", f"https://{HUB}"))
    try:
        yield
    finally:
        socket.setdefaulttimeout(waited)
        constants.HF_HUB_OFFLINE = offline


def _reachable(address: str) -> bool:
    """Whether a server takes connections; what is behind a proxy is believed to."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host, _, port = address.partition("://")[2].partition("/")[0].partition(":")
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, int(port or (80 if address.startswith("http:") else 443))), WAIT).close()
        except OSError:
            return
        answers.append(True)

    # In a thread: to look a name up has no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(WAIT)
    return bool(answers)
