"""``python -m lightning_finetune`` is ``lightning-finetune``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from lightning_finetune.cli import command_line  # only now, as it loads all of Lightning

    command_line.main()


if __name__ == "__main__":
    main()
