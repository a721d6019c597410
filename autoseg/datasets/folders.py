"""Folders of image files in, cases out: nnU-Net's `_0000` names, and any folder of images to be predicted.

A file `case_0001.nii.gz` is channel 1 of `case` where the dataset has several channels, or where it is channel
0; every other file is a case of its own with all its channels inside.
"""

import re
from pathlib import Path

from autoseg.datasets.findings import Finding, fault
from autoseg.errors import DataError
from autoseg.images.formats import PICTURES, TIFF, file_ending, known_ending, stem
from autoseg.records.dataset import Case

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def list_images(folder: Path, ending: str | None = None) -> list[Path]:
    """Image files in `folder`, sorted, hidden ones left out; only those with `ending` if given.

    A link to nowhere is among them, so that whoever reads it names it: it stands for a case that somebody expects.
    """
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith(".") and known_ending(path))
    present = (path for path in files if path.is_file() or (path.is_symlink() and not path.exists()))
    return sorted(path for path in present if ending is None or path.name.endswith(ending))


def nnunet_cases(
    root: Path, images: str, labels: str | None, num_channels: int, ending: str | None, findings: list[Finding]
) -> list[Case]:
    """Cases of an nnU-Net raw folder.

    Args:
        root: dataset folder.
        images: its subfolder of images, named `<case>_<channel><ending>`.
        labels: its subfolder of labels, named `<case><ending>`; None for test images.
        num_channels: number of channels in dataset.json; 0: unknown, any number is complete.
        ending: `file_ending` of dataset.json.
        findings: faults are added here: missing or unknown channels, images without label, labels without image.

    Returns:
        The cases that are complete.
    """
    channels: dict[str, dict[int, str]] = {}
    for path in list_images(root / images, ending):
        match = _CHANNEL.fullmatch(_stem(path, ending))
        name = f"{images}/{path.name}"
        if match is None:
            message = f"{name} does not end in a channel number; expected `<case>_0000{ending or ''}`."
            findings.append(fault("file_name", message, file=name))
            continue
        channels.setdefault(match[1], {})[int(match[2])] = name
    label_files = (
        {} if labels is None else {_stem(p, ending): f"{labels}/{p.name}" for p in list_images(root / labels, ending)}
    )
    cases = []
    for case_id, files in channels.items():
        expected = set(range(num_channels or len(files)))
        # nnU-Net keeps the colours of a picture in one file; whether they are all there is seen when it is read.
        is_colour = set(files) == {0} and known_ending(files[0]) in (*PICTURES, *TIFF)
        if set(files) != expected and not is_colour:
            findings.append(_channel_fault(case_id, sorted(files), num_channels, images))
        elif labels is not None and case_id not in label_files:
            message = f"{files[0]} has no label; expected {labels}/{case_id}{ending or ''}."
            findings.append(fault("image_without_label", message, case_id, files[0]))
        else:
            paths = tuple(files[channel] for channel in sorted(files))
            cases.append(Case(id=case_id, images=paths, label=label_files.get(case_id)))
    for case_id in sorted(set(label_files) - set(channels)):
        message = f"{label_files[case_id]} has no image; expected {images}/{case_id}_0000{ending or ''}."
        findings.append(fault("label_without_image", message, case_id, label_files[case_id]))
    return cases


def find_cases(folder: Path, num_channels: int) -> tuple[Case, ...]:
    """Images to be predicted.

    Args:
        folder: folder of images, or one image file. Paths of the cases are relative to the folder.
        num_channels: channels that the model expects.

    Returns:
        Cases sorted by id; one whose channels are incomplete holds those that are there, and reading it says so.

    Raises:
        DataError: there are no images, or two files would be the same case.
    """
    if folder.is_file():
        return (Case(id=_case_and_channel(folder, num_channels)[0], images=(folder.name,)),)
    files: dict[str, dict[int | None, str]] = {}
    for path in list_images(folder):
        case_id, channel = _case_and_channel(path, num_channels)
        given = files.setdefault(case_id, {})
        if given and (channel is None or channel in given or None in given):
            raise DataError(f"{path} and {folder / next(iter(given.values()))} would be the same case {case_id!r}.")
        given[channel] = path.name
    if not files:
        raise DataError(f"{folder} holds no images; expected a folder of images or an image file.")
    return tuple(
        Case(id=case_id, images=tuple(given[key] for key in sorted(given, key=lambda c: -1 if c is None else c)))
        for case_id, given in sorted(files.items())
    )


def _case_and_channel(path: Path, num_channels: int) -> tuple[str, int | None]:
    name = stem(path)
    match = _CHANNEL.fullmatch(name)
    if match is not None and int(match[2]) < num_channels:
        return match[1], int(match[2])
    return name, None


def _stem(path: Path, ending: str | None) -> str:
    return path.name[: -len(ending if ending is not None else file_ending(path))]


def _channel_fault(case_id: str, found: list[int], num_channels: int, folder: str) -> Finding:
    missing = sorted(set(range(num_channels)) - set(found))
    unknown = sorted(set(found) - set(range(num_channels)))
    parts = [f"channels {missing} are missing"] if missing else []
    parts += [f"channels {unknown} are not in channel_names"] if unknown else []
    message = f"in {folder} {' and '.join(parts)}; expected {num_channels} files, _0000 to _{num_channels - 1:04d}."
    return fault("missing_channel" if missing else "unknown_channel", message, case_id, f"{folder}/{case_id}")
