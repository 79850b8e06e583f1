"""Weights that cannot be downloaded: an error in seconds, with the way out."""

import socket
import time

import pytest
import timm
from huggingface_hub import constants
from torch import nn

from lightning_finetune.errors import FinetuneError
from lightning_finetune.tasks.networks import downloads
from lightning_finetune.tasks.networks.downloads import from_hub


def test_a_failing_download_says_the_way_out():
    def offline() -> nn.Module:
        raise ConnectionError("no route")

    with pytest.raises(FinetuneError, match=r"'convnext_tiny'.*no route.*weights='file.*weights=False"):
        from_hub(offline, "convnext_tiny")


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network without the hub: nothing listens at its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setattr(constants, "ENDPOINT", address)


def test_a_hub_that_cannot_be_reached_is_given_up_in_seconds(no_server, tmp_path, monkeypatch):
    """The hub's own client tries for a minute."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(FinetuneError, match="could not be downloaded"):
        from_hub(lambda: timm.create_model("resnet10t", pretrained=True), "resnet10t")
    assert time.monotonic() - start < 20
    assert not constants.HF_HUB_OFFLINE
    assert socket.getdefaulttimeout() is None


def test_a_server_that_listens_is_asked(monkeypatch: pytest.MonkeyPatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}/mirror")
        seen = from_hub(lambda: nn.Linear(1, 1) if not constants.HF_HUB_OFFLINE else nn.Identity(), "any")
    assert isinstance(seen, nn.Linear)


def test_names_that_are_looked_up_for_ever_are_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    def look_up(*_):
        time.sleep(10)
        raise OSError

    monkeypatch.setattr(downloads, "WAIT", 0.2)
    monkeypatch.setattr(socket, "create_connection", look_up)
    start = time.monotonic()
    assert not downloads._reachable("https://huggingface.co")
    assert time.monotonic() - start < 5
