"""A folder of images and labels without dataset.json in, what it probably means out, so that it can be checked.

Only the checks use this: what the labels are is for the user to say before anything is trained. The guess is
meant to make the odd one out visible: the number of channels is the most frequent one, and the classes are the label
values that at least two cases have.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from autoseg.datasets.description import FILE_NAME
from autoseg.datasets.findings import Finding, fault, warning
from autoseg.datasets.folders import list_images
from autoseg.errors import AutosegError
from autoseg.images.formats import known_ending, stem
from autoseg.images.reading import count_channels, read_label
from autoseg.records.dataset import Case, Dataset
from autoseg.records.labels import LabelScheme

_IMAGES = ("imagesTr", "images")
_LABELS = ("labelsTr", "labels")
_FEW_CASES = 3  # with fewer readable labels every value counts


def guess_dataset(root: Path) -> tuple[Dataset | None, list[Finding]]:
    """Pair images and labels of equal names in `root`.

    Returns:
        A dataset of the pairs (None where there are none or nothing to segment), and what was found: files without
        counterpart are faults; that dataset.json is missing is a warning that shows what was assumed.
    """
    images = {stem(path): f"{folder}/{path.name}" for folder in _IMAGES[::-1] for path in list_images(root / folder)}
    labels = {stem(path): f"{folder}/{path.name}" for folder in _LABELS[::-1] for path in list_images(root / folder)}
    findings = []
    for case_id in sorted(set(images) ^ set(labels)):
        if case_id in images:
            message = f"{images[case_id]} has no label."
            findings.append(fault("image_without_label", message, case_id, images[case_id]))
        else:
            message = f"{labels[case_id]} has no image."
            findings.append(fault("label_without_image", message, case_id, labels[case_id]))
    pairs = sorted(set(images) & set(labels))
    values = _common_values([root / labels[case_id] for case_id in pairs])
    if not pairs or len(values) < 2:
        reason = "its images and labels of equal names are too few to guess one"
        findings.append(fault("no_dataset_json", f"{root / FILE_NAME} is missing, and {reason}.", file=FILE_NAME))
        return None, findings
    num_channels = _usual_channels([root / images[case_id] for case_id in pairs])
    assumed = f"{num_channels} channel{'s' if num_channels > 1 else ''} and labels {', '.join(map(str, values))}"
    message = f"{root / FILE_NAME} is missing; checked as {assumed} (values that two cases have). Write one to train."
    findings.append(warning("no_dataset_json", message, file=FILE_NAME))
    scheme = LabelScheme(
        class_names=("background", *(f"value {value}" for value in values[1:])),
        class_values=tuple(values),
        num_entries=len(values),
    )
    dataset = Dataset(
        name=root.resolve().name,
        root=str(root.resolve()),
        layout="decathlon",
        channel_names=tuple(f"channel {i}" for i in range(num_channels)),
        labels=scheme,
        file_ending=known_ending(images[pairs[0]]) or ".nii.gz",
        training=tuple(Case(id=case_id, images=(images[case_id],), label=labels[case_id]) for case_id in pairs),
    )
    return dataset, findings


def _common_values(paths: list[Path]) -> list[int]:
    """Values that at least two of the readable labels have, 0 among them and first."""
    counts: Counter[int] = Counter()
    num_readable = 0
    for path in paths:
        try:
            counts.update(int(value) for value in np.unique(read_label(path).array))
        except AutosegError:  # the checks name it
            continue
        num_readable += 1
    least = 2 if num_readable >= _FEW_CASES else 1
    return [0, *sorted(value for value, count in counts.items() if count >= least and value != 0)]


def _usual_channels(paths: list[Path]) -> int:
    counts: Counter[int] = Counter()
    for path in paths:
        try:
            counts[count_channels(path)] += 1
        except AutosegError:  # the checks name it
            continue
    return counts.most_common(1)[0][0] if counts else 1
