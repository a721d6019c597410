"""Segment an image of one z-scored channel with an exported 3-D network, without autoseg.

python predict_with_onnx.py EXPORTED_FOLDER IMAGE OUTPUT
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import SimpleITK as sitk  # noqa: N813

folder, image_file, output_file = sys.argv[1:]
model = json.loads((Path(folder) / "autoseg.json").read_text())
plan, settings = model["plan"], model["plan"]["configurations"][model["configuration"]]
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
patch = session.get_inputs()[0].shape[2:]

stored = sitk.ReadImage(image_file, sitk.sitkFloat32)
image = sitk.DICOMOrient(stored, "RAS") if plan["orientation"] == "canonical" else stored
spacing = settings["spacing_mm"][::-1]
size = [round(n * a / b) for n, a, b in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
direction, where_from = image.GetDirection(), image.GetOrigin()
grid = sitk.Resample(image, size, sitk.Transform(), sitk.sitkBSpline, where_from, spacing, direction)
values = sitk.GetArrayFromImage(grid)
shape = values.shape
values = np.pad(
    (values - values.mean()) / values.std(), [(0, max(p - n, 0)) for n, p in zip(shape, patch, strict=True)]
)

offsets = np.meshgrid(*[(np.arange(p) - (p - 1) / 2) * 8 / p for p in patch], indexing="ij")
weights = np.exp(-0.5 * sum(o**2 for o in offsets)).astype(np.float32)
tiles = [
    np.linspace(0, n - p, int(np.ceil((n - p) * 2 / p)) + 1).round().astype(int)
    for n, p in zip(values.shape, patch, strict=True)
]
total = np.zeros((session.get_outputs()[0].shape[1], *values.shape), np.float32)
for start in itertools.product(*tiles):
    where = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    (logits,) = session.run(None, {"patches": values[where][None, None]})
    total[(slice(None), *where)] += logits[0] * weights  # the sum of weights does not change which is largest

labels = total.argmax(0)[tuple(slice(0, n) for n in shape)].astype(np.int16)
found = sitk.GetImageFromArray(np.array(plan["labels"]["class_values"], np.int16)[labels])
found.CopyInformation(grid)
sitk.WriteImage(sitk.Resample(found, stored, sitk.Transform(), sitk.sitkNearestNeighbor), output_file)
