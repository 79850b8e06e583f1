"""``python -m lightning_finetune`` is ``lightning-finetune``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from lightning_finetune import cli  # only now, as it loads all of Lightning

    cli.main()


if __name__ == "__main__":
    main()
