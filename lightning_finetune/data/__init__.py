"""Images from files to batches: the data block, the data module, and augmentation."""

from lightning_finetune.data.image_data import ImageData
from lightning_finetune.data.image_items import ImageItems
from lightning_finetune.data.image_stream import ImageStream
from lightning_finetune.data.pixels.augment import Augment

__all__ = ["Augment", "ImageData", "ImageItems", "ImageStream"]
