"""The data block as its users have it: it ends in a data module."""

from __future__ import annotations

from typing_extensions import Unpack

from lightning_finetune.data.block.examined import Examined
from lightning_finetune.data.block.items import Items
from lightning_finetune.data.block.options import Options
from lightning_finetune.data.block.summary import Summary
from lightning_finetune.data.image_data import ImageData


class ImageItems(Items):
    """Images on their way to a data module, as the lessons' ``ImageItemList``.

    ``ImageItems.from_folder(root).split_by_pct(0.2).label_from_folder().datamodule(size=224)``

    Its arguments, and its steps but for the last, are those of :class:`~lightning_finetune.data.block.items.Items`.
    """

    def datamodule(self, **options: Unpack[Options]) -> ImageData:
        """The data module of these items; see :class:`~lightning_finetune.data.image_data.ImageData` for options.

        Raises:
            DataError: The items are not split or not labelled, or a split is empty.
        """
        return ImageData(self, **options)

    def summary(self) -> Summary:
        """Counts, class balance and sizes, and warnings of what looks wrong; ``print`` it.

        Raises:
            DataError: The items are not split or not labelled.
        """
        return Examined(self).summary()
