"""Run an exported model without torch: ``python onnx_predict.py model.onnx photo.jpg [mask.png]``."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo, *mask = sys.argv[1:]
card = json.loads(Path(model).with_suffix(".json").read_text(encoding="utf-8"))
image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
fit = {"crop": ImageOps.fit, "squish": Image.Image.resize}[card["resize"]]
size = card["size"][::-1]
if card["kind"] == "mask":  # all of the image, at the scale at which the model was validated
    scale = max(size[0] / image.width, size[1] / image.height)
    size = [max(1, round(side * scale)) for side in image.size]
pixels = np.asarray(fit(image, size, Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1) / 255
[found] = onnxruntime.InferenceSession(model).run(None, {"image": pixels[None]})[0]
if card["kind"] == "mask":
    full = [np.asarray(Image.fromarray(one).resize(image.size, Image.Resampling.BILINEAR)) for one in found]
    Image.fromarray(np.argmax(full, 0).astype(np.uint8)).save(mask[0])
else:
    thresholds = card.get("thresholds", [0] * len(found))
    for k in np.argsort(-found):
        print(f"{card['classes'][k]}\t{found[k]:.6f}\t{'yes' if found[k] > thresholds[k] else 'no'}")
