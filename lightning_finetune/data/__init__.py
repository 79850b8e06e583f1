"""Images from files to batches: the data block, the data module, and augmentation."""

from lightning_finetune.data.augment import Augment
from lightning_finetune.data.image_data import ImageData
from lightning_finetune.data.items import ImageItems

__all__ = ["Augment", "ImageData", "ImageItems"]
