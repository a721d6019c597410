"""The text of a dataset.json in, channels, labels and faults out; Decathlon's and nnU-Net's words both.

Labels are understood in either direction (`{"0": "background", "1": "liver"}` and `{"background": 0, "liver": 1}`).
A list of values is a region (nnU-Net's region-based training): the classes are then all values that
occur in regions, and `regions_class_order` says which is painted for each region. `ignore` names voxels that
enter neither loss nor score. Everything wrong is collected, so that one run names all of it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from autoseg.datasets.findings import Finding, fault, raise_faults
from autoseg.records.dataset import Dataset
from autoseg.records.labels import LabelScheme, Target

FILE_NAME = "dataset.json"


class Description(NamedTuple):
    """What a dataset.json says, apart from its cases."""

    content: dict[str, Any]
    layout: str
    """`decathlon` or `nnunet`."""
    channel_names: tuple[str, ...]
    labels: LabelScheme | None
    """None if they are faulty."""
    findings: list[Finding]


def parse_dataset_json(path: Path) -> tuple[Dataset, int]:
    """Channels and labels from a dataset.json alone, for planning without the images.

    Returns:
        A dataset without cases, and its `numTraining`.

    Raises:
        DataError: the file cannot be used; all faults are named.
    """
    described = read_description(path)
    listed = described.content.get("training")
    count: Any = described.content.get("numTraining", len(listed) if isinstance(listed, list) else None)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        described.findings.append(fault("num_training", f"numTraining is {count!r}; expected the number of cases."))
    raise_faults(described.findings, str(path))
    if described.labels is None:
        raise AssertionError("labels are missing without a fault")
    dataset = Dataset(
        name=str(described.content.get("name") or path.stem),
        root=str(path.parent.resolve()),
        layout=described.layout,
        channel_names=described.channel_names,
        labels=described.labels,
        file_ending=str(described.content.get("file_ending", ".nii.gz")),
        training=(),
    )
    return dataset, int(count)


def read_description(path: Path) -> Description:
    """Read a dataset.json; what is wrong is in its findings. A file that is not JSON gives an empty content."""
    findings: list[Finding] = []
    content = _read_json(path, findings)
    if content is None:
        return Description({}, "decathlon", (), None, findings)
    is_nnunet = "file_ending" in content or ("channel_names" in content and "training" not in content)
    channels = parse_channels(content, findings)
    labels = parse_labels(content, findings)
    return Description(content, "nnunet" if is_nnunet else "decathlon", channels, labels, findings)


def parse_channels(content: dict[str, Any], findings: list[Finding]) -> tuple[str, ...]:
    """Names of the channels in order, from `channel_names` or `modality`."""
    key = "channel_names" if "channel_names" in content else "modality"
    given = content.get(key)
    if isinstance(given, list):
        given = {str(i): name for i, name in enumerate(given)}
    if not isinstance(given, dict) or not given:
        expected = 'expected for example {"0": "CT"} as `channel_names` or `modality`'
        findings.append(fault("channels", f"the channels are missing; {expected}."))
        return ()
    names: dict[int, str] = {}
    for left, right in given.items():
        number, name = (left, right) if _integer(left) is not None else (right, left)
        if (index := _integer(number)) is None or index in names:
            findings.append(fault("channels", f"{key}: {left!r}: {right!r} gives no channel number of its own."))
            continue
        names[index] = str(name)
    if names and sorted(names) != list(range(len(names))):
        findings.append(fault("channels", f"{key} has the numbers {sorted(names)}; expected 0, 1, 2, ..."))
    return tuple(names[index] for index in sorted(names))


def parse_labels(content: dict[str, Any], findings: list[Finding]) -> LabelScheme | None:
    """The label scheme, or None after the faults were added to `findings`."""
    given = content.get("labels")
    if not isinstance(given, dict) or not given:
        findings.append(fault("labels", 'labels are missing; expected for example {"background": 0, "liver": 1}.'))
        return None
    before = len(findings)
    entries = _label_entries(given, findings)
    if len(findings) > before:
        return None
    ignore = next((values[0] for name, values, _ in entries if name.casefold() == "ignore"), None)
    rest = [entry for entry in entries if entry[0].casefold() != "ignore"]
    background = [entry for entry in rest if entry[0].casefold() == "background"] or [
        entry for entry in rest if entry[1] == (0,)
    ]
    if len(background) != 1 or len(background[0][1]) != 1:
        findings.append(
            fault("no_background", "labels: expected one entry `background` (or of value 0) with one value.")
        )
        return None
    foreground = [entry for entry in rest if entry is not background[0]]
    zero = background[0][1][0]
    if any(is_region for *_, is_region in foreground):
        return _region_scheme(content, background[0][0], zero, foreground, ignore, len(given), findings)
    names = (background[0][0], *(name for name, _, _ in foreground))
    values = (zero, *(numbers[0] for _, numbers, _ in foreground))
    return _scheme(
        {"class_names": names, "class_values": values, "ignore_value": ignore, "num_entries": len(given)}, findings
    )


def _label_entries(given: dict[str, Any], findings: list[Finding]) -> list[tuple[str, tuple[int, ...], bool]]:
    """Name, values and whether it is a region, for every entry; ordered by value unless there are regions."""
    by_value = all(_integer(key) is not None for key in given) and all(isinstance(v, str) for v in given.values())
    entries = []
    for left, right in given.items():
        name, value = (str(right), left) if by_value else (left, right)
        numbers = [_integer(item) for item in (value if isinstance(value, list) else [value])]
        if not numbers or any(number is None for number in numbers):
            findings.append(
                fault("labels", f"labels: {left!r}: {right!r}: expected a name and an integer, or a list of them.")
            )
            continue
        entries.append((name.strip(), tuple(n for n in numbers if n is not None), isinstance(value, list)))
    names = [name for name, _, _ in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        findings.append(fault("labels", f"labels: the name {name!r} stands twice."))
    if any(is_region for *_, is_region in entries):
        return entries
    return sorted(entries, key=lambda entry: entry[1])


def _region_scheme(
    content: dict[str, Any],
    background_name: str,
    zero: int,
    foreground: list[tuple[str, tuple[int, ...], bool]],
    ignore: int | None,
    num_entries: int,
    findings: list[Finding],
) -> LabelScheme | None:
    values = (zero, *sorted({value for _, numbers, _ in foreground for value in numbers} - {zero}))
    alone = {numbers[0]: name for name, numbers, _ in foreground if len(set(numbers)) == 1}
    order = content.get("regions_class_order")
    numbers_ok = isinstance(order, list) and all(_integer(item) in values[1:] for item in order)
    if not isinstance(order, list) or not numbers_ok or len(order) != len(foreground):
        expected = f"one of the values {list(values[1:])} for each of the {len(foreground)} regions"
        findings.append(fault("regions_class_order", f"regions_class_order is {order!r}; expected {expected}."))
        return None
    index = {value: number for number, value in enumerate(values)}
    regions = tuple(
        Target(name=name, members=tuple(sorted({index[value] for value in numbers}))) for name, numbers, _ in foreground
    )
    return _scheme(
        {
            "class_names": (background_name, *(alone.get(value, f"value {value}") for value in values[1:])),
            "class_values": values,
            "regions": regions,
            "region_order": tuple(index[_integer(item) or 0] for item in order),
            "ignore_value": ignore,
            "num_entries": num_entries,
        },
        findings,
    )


def _scheme(fields: dict[str, Any], findings: list[Finding]) -> LabelScheme | None:
    try:
        return LabelScheme(**fields)
    except ValueError as error:
        reasons = "; ".join(e["msg"] for e in error.errors()) if hasattr(error, "errors") else str(error)
        findings.append(fault("labels", f"labels: {reasons}."))
        return None


def _integer(value: Any) -> int | None:
    """`value` as an integer if it is one, or text of one; truth values and fractions are none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal() and len(value) < 12:
        return int(value)
    return None


def _read_json(path: Path, findings: list[Finding]) -> dict[str, Any] | None:
    """The JSON object in `path`; double keys and numbers that are not finite are faults."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        for name in sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
            findings.append(fault("json", f"the key {name!r} stands twice in one object.", file=path.name))
        return dict(items)

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")) or value != value:
            findings.append(fault("json", f"{text} is not a finite number.", file=path.name))
        return value

    try:
        text = path.read_text("utf-8-sig")
        content = json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_constant=number)
    except FileNotFoundError:
        findings.append(fault("no_dataset_json", f"{path} is missing; a dataset folder needs one.", file=path.name))
        return None
    except (OSError, ValueError, RecursionError) as error:
        findings.append(fault("json", f"{path} is no readable JSON in UTF-8: {error}.", file=path.name))
        return None
    if not isinstance(content, dict):
        findings.append(fault("json", f"{path}: expected a JSON object.", file=path.name))
        return None
    return content
