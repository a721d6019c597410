"""A dataset folder in, its record out: Decathlon folders as downloaded and nnU-Net v2 raw folders.

Nothing in the folder is changed and nothing outside it is read: absolute paths, `..` and links that lead
out are faults. Hidden files (`._case.nii.gz` of macOS) are ignored. `inspect_dataset` goes on after a
fault, so that one run of the checks names all of them. Test images that are not there are no fault, since nothing but
their prediction needs them.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from autoseg.datasets.description import FILE_NAME, Description, read_description
from autoseg.datasets.findings import Finding, fault, warning
from autoseg.datasets.folders import list_images, nnunet_cases
from autoseg.images.formats import known_ending, stem
from autoseg.records.dataset import Case, Dataset

_INCOMPLETE = ("missing_file", "missing_channel", "unknown_channel", "file_name")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names that Windows shares cannot hold


class Listing(NamedTuple):
    """What a dataset folder lists, whatever else of dataset.json is faulty."""

    described: Description
    training: list[Case]
    """Those whose files are there."""
    test: list[Case]
    findings: list[Finding]


def inspect_dataset(root: Path) -> tuple[Dataset | None, list[Finding]]:
    """Read the description and the file lists of a dataset folder, and go on after faults.

    Args:
        root: folder in the layout of the Decathlon or of nnU-Net v2 (raw).

    Returns:
        The dataset with those cases whose files are there, or None if labels or channels are unknown;
        and all faults and warnings. No voxels are read.
    """
    described, training, test, findings = list_cases(root)
    if described.labels is None or not described.channel_names:
        return None, findings
    dataset = Dataset(
        name=safe_name(root.resolve().name),
        root=str(root.resolve()),
        layout=described.layout,
        channel_names=described.channel_names,
        labels=described.labels,
        file_ending=_ending(described, training),
        training=tuple(sorted(training, key=lambda case: case.id)),
        test=tuple(sorted(test, key=lambda case: case.id)),
    )
    return dataset, findings


def list_cases(root: Path) -> Listing:
    """The cases of a dataset folder with all that is wrong with dataset.json and the files it lists."""
    described = read_description(root / FILE_NAME)
    findings = described.findings
    if not described.content:
        return Listing(described, [], [], findings)
    read_cases = _decathlon_cases if described.layout == "decathlon" else _nnunet_cases
    training, test = read_cases(root, described, findings)
    _check_ids([*training, *test], findings)
    training = _with_patients(training, described.content.get("patients"), findings)
    if not training and not any(f.is_fault for f in findings):
        findings.append(fault("no_cases", f"{root} has no training cases."))
    count = described.content.get("numTraining")
    listed = (
        len(described.content["training"]) if isinstance(described.content.get("training"), list) else len(training)
    )
    if count is not None and count != listed:
        findings.append(warning("num_training", f"numTraining is {count!r}, there are {listed} training cases."))
    return Listing(described, training, test, findings)


def safe_name(name: str) -> str:
    """A folder name as the name of its workspace: other characters than letters, digits, `.`, `_`, `-` become `_`."""
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._-]", "_", name)) or "dataset"


def _decathlon_cases(root: Path, described: Description, findings: list[Finding]) -> tuple[list[Case], list[Case]]:
    content = described.content
    training: list[Case] = []
    seen: set[str | None] = set()
    for entry in _entries(content, "training", findings):
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        if label is None and isinstance(image, str):
            label = f"labelsTr/{Path(image).name}"
        case = _listed_case(root, image, label, len(described.channel_names), findings)
        if case is not None:
            training.append(case)
            seen.update((*case.images, case.label))
    test = []
    found: list[Finding] = []
    for entry in _entries(content, "test", findings):
        image = entry.get("image") if isinstance(entry, dict) else entry
        case = _listed_case(root, image, None, len(described.channel_names), found)
        if case is not None:
            test.append(case)
    findings += _of_test_cases(found)
    _report_unlisted(root, content, seen, findings)
    return training, test


def _entries(content: dict[str, Any], key: str, findings: list[Finding]) -> list[Any]:
    given = content.get(key, [])
    if not isinstance(given, list):
        findings.append(fault("json", f"{key}: expected a list of files, found {type(given).__name__}."))
        return []
    return [entry for entry in given if not _is_hidden(entry)]


def _is_hidden(entry: Any) -> bool:
    image = entry.get("image") if isinstance(entry, dict) else entry
    return isinstance(image, str) and Path(image).name.startswith(".")


def _of_test_cases(found: list[Finding]) -> list[Finding]:
    """What was found on test cases, those that are not there completely in one warning: training needs none of them."""
    absent = [finding for finding in found if finding.kind in _INCOMPLETE]
    rest = [finding for finding in found if finding.kind not in _INCOMPLETE]
    if not absent:
        return rest
    shown = "".join(f"\n  {finding.message}" for finding in absent[:5])
    more = f"\n  ... and {len(absent) - 5} more" if len(absent) > 5 else ""
    message = f"test images are not there completely; these cases will not be predicted:{shown}{more}"
    return [*rest, warning("no_test_images", message)]


def _listed_case(root: Path, image: Any, label: Any, num_channels: int, findings: list[Finding]) -> Case | None:
    """The case of one entry, or None after its faults were added."""
    given = image if isinstance(image, list) else [image]
    if not given or not all(isinstance(text, str) and known_ending(text) for text in given):
        findings.append(fault("entry", f"training or test: {image!r} is no name of an image file."))
        return None
    case_id = stem(given[0]) if len(given) == 1 else re.sub(r"_\d{4}$", "", stem(given[0]))
    before = len(findings)
    images = [path for text in given for path in _image_files(root, text, num_channels, case_id, findings)]
    label_path = None
    if label is not None:
        label_path = relative_path(root, label, case_id, findings) if isinstance(label, str) else None
        if not isinstance(label, str):
            findings.append(fault("entry", f"its label is {label!r}; expected a file.", case_id))
    if len(findings) > before:
        return None
    return Case(id=case_id, images=tuple(images), label=label_path)


def _image_files(root: Path, text: str, num_channels: int, case_id: str, findings: list[Finding]) -> list[str]:
    """The file itself, or, where it is missing and nnU-Net's `_0000` files are there in its place, those."""
    ending = known_ending(text) or ""
    channels = [f"{text[: -len(ending)]}_{channel:04d}{ending}" for channel in range(num_channels)]
    names = channels if not (root / text).exists() and channels and (root / channels[0]).exists() else [text]
    found = [relative_path(root, name, case_id, findings) for name in names]
    return [path for path in found if path is not None]


def relative_path(root: Path, text: str, case_id: str | None, findings: list[Finding]) -> str | None:
    """`text` as a path relative to `root` of a file that is there, or None after the fault was added."""
    pure = Path(text)
    if pure.is_absolute() or ".." in pure.parts or "\\" in text or "\0" in text or re.match(r"[A-Za-z]:", text):
        message = f"{text!r} leads out of the dataset's folder; expected a path inside it."
        findings.append(fault("path_escape", message, case_id, text))
        return None
    target = root / pure
    try:
        if not target.is_file():
            findings.append(fault("missing_file", f"{text} is listed but not there.", case_id, text))
            return None
        if not target.resolve().is_relative_to(root.resolve()):
            message = f"{text} is a link that leads out of the dataset's folder; copy the file in."
            findings.append(fault("path_escape", message, case_id, text))
            return None
    except OSError as error:
        findings.append(fault("missing_file", f"{text!r} cannot be a file: {error.strerror}.", case_id, text))
        return None
    return pure.as_posix()


def _report_unlisted(root: Path, content: dict[str, Any], seen: set[Any], findings: list[Finding]) -> None:
    """Name files in the training folders that dataset.json does not list: it decides, but they may be forgotten."""
    if not isinstance(content.get("training"), list):
        return
    listed = {Path(path).as_posix() for path in seen if path}
    for folder, kind, what in (
        ("imagesTr", "image_without_label", "image"),
        ("labelsTr", "label_without_image", "label"),
    ):
        for path in list_images(root / folder):
            name = f"{folder}/{path.name}"
            if name not in listed and not any(f.file and Path(f.file).as_posix() == name for f in findings):
                message = f"{what} {name} is not listed in dataset.json and will not be used."
                findings.append(warning(kind, message, stem(path), name))


def _nnunet_cases(root: Path, described: Description, findings: list[Finding]) -> tuple[list[Case], list[Case]]:
    mapping = described.content.get("dataset")
    num_channels = len(described.channel_names)
    ending = described.content.get("file_ending")
    if isinstance(mapping, dict):
        training = []
        for case_id, entry in mapping.items():
            images = entry.get("images") if isinstance(entry, dict) else None
            case = _listed_case(root, images, entry.get("label") if images else None, num_channels, findings)
            if case is not None:
                training.append(case.model_copy(update={"id": case_id}))
    else:
        training = nnunet_cases(root, "imagesTr", "labelsTr", num_channels, ending, findings)
    found: list[Finding] = []
    test = nnunet_cases(root, "imagesTs", None, num_channels, ending, found)
    findings += _of_test_cases(found)
    return _contained(root, training, findings), _contained(root, test, findings)


def _contained(root: Path, cases: list[Case], findings: list[Finding]) -> list[Case]:
    kept = []
    for case in cases:
        names = [*case.images, *([case.label] if case.label else [])]
        if all(relative_path(root, name, case.id, findings) is not None for name in names):
            kept.append(case)
    return kept


def _check_ids(cases: list[Case], findings: list[Finding]) -> None:
    seen: dict[str, str] = {}
    for case in cases:
        if not _ID.fullmatch(case.id) or _RESERVED.fullmatch(case.id):
            rule = "a letter or digit, then letters, digits, `.`, `_`, `-`, 128 at most"
            findings.append(
                fault("case_id", f"{case.id!r} cannot be a case's name; expected {rule}.", None, case.images[0])
            )
        key = case.id.casefold()
        if key in seen:
            message = f"{case.images[0]}: the case's name is that of {seen[key]!r} (upper and lower case count alike)."
            findings.append(fault("duplicate_case", message, case.id, case.images[0]))
        seen.setdefault(key, case.id)


def _with_patients(cases: list[Case], patients: Any, findings: list[Finding]) -> list[Case]:
    if patients is None:
        return cases
    if not isinstance(patients, dict) or not all(isinstance(p, str | int) for p in patients.values()):
        findings.append(fault("patients", 'patients: expected {"case": "patient"} with text or numbers.'))
        return cases
    known = {case.id for case in cases}
    for case_id in sorted(set(patients) - known):
        findings.append(warning("patients", f"patients names {case_id!r}, which is no training case."))
    return [
        case.model_copy(update={"patient": str(patients[case.id])}) if case.id in patients else case for case in cases
    ]


def _ending(described: Description, training: list[Case]) -> str:
    given = described.content.get("file_ending")
    if isinstance(given, str):
        return given
    return (known_ending(training[0].images[0]) if training else None) or ".nii.gz"
