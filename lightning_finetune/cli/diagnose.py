"""``lightning-finetune diagnose``: what the curves of a run tell; this loads neither torch nor Lightning."""

from __future__ import annotations

import sys

from lightning_finetune.cli.messages import fitted
from lightning_finetune.engine.diagnosis import diagnose, read_csv


def diagnose_file(metrics: str) -> None:
    """Say what the curves of a run tell about its learning rate and its length.

    Args:
        metrics: The ``metrics.csv`` that Lightning's CSVLogger wrote for any run.
    """
    findings = diagnose(read_csv(metrics))
    print(fitted("\n".join(map(str, findings)) or "Nothing to look out for.", sys.stdout))  # noqa: T201
