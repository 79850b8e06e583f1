"""``python -m lightning_finetune`` is ``lightning-finetune``."""

from __future__ import annotations

from lightning_finetune.cli.front import main

if __name__ == "__main__":
    main()
