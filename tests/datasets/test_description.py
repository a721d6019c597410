"""dataset.json in Decathlon's and nnU-Net's words, and everything that can be wrong with one."""

import json

import pytest

from autoseg.datasets.description import parse_channels, parse_dataset_json, parse_labels, read_description
from autoseg.errors import DataError


def labels_of(content):
    findings = []
    return parse_labels(content, findings), [f.kind for f in findings]


@pytest.mark.parametrize(
    "given",
    [
        {"0": "background", "1": "liver", "7": "cancer"},
        {"background": 0, "liver": 1, "cancer": 7},
        {"cancer": "7", "liver": "1", "Background": "0"},
        {"7": "cancer", "1": "liver", "0": "anything of value 0"},
    ],
)
def test_labels_in_either_direction_ordered_by_value(given):
    scheme, kinds = labels_of({"labels": given})
    assert not kinds
    assert scheme.class_values == (0, 1, 7)
    assert scheme.class_names[1:] == ("liver", "cancer")
    assert scheme.num_entries == 3
    assert scheme.ignore_value is None


def test_background_may_have_another_value_and_ignore_is_no_class():
    scheme, kinds = labels_of({"labels": {"background": 255, "liver": 0, "ignore": 3}})
    assert not kinds
    assert scheme.class_values == (255, 0)
    assert scheme.ignore_value == 3
    assert scheme.num_entries == 3


def test_regions_keep_their_order_and_name_single_classes():
    given = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3], "ignore": 4}
    scheme, kinds = labels_of({"labels": given, "regions_class_order": [1, 2, 3]})
    assert not kinds
    assert scheme.class_names == ("background", "value 1", "value 2", "enhancing")
    assert [(t.name, t.members) for t in scheme.regions] == [
        ("whole", (1, 2, 3)),
        ("core", (2, 3)),
        ("enhancing", (3,)),
    ]
    assert scheme.region_order == (1, 2, 3)
    assert (scheme.num_entries, scheme.num_heads, scheme.ignore_index) == (5, 3, 4)


def test_region_values_need_not_be_consecutive():
    given = {"background": 0, "all": [5, 9], "small": 9}
    scheme, kinds = labels_of({"labels": given, "regions_class_order": [5, 9]})
    assert not kinds
    assert scheme.class_values == (0, 5, 9)
    assert scheme.region_order == (1, 2)
    assert scheme.regions[1].members == (2,)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({}, "labels"),
        ({"labels": {}}, "labels"),
        ({"labels": {"liver": 1, "cancer": 2}}, "no_background"),
        ({"labels": {"background": 0}}, "labels"),
        ({"labels": {"background": 0, "liver": 1, "cancer": 1}}, "labels"),
        ({"labels": {"background": 0, "liver": 1.5}}, "labels"),
        ({"labels": {"background": 0, "liver": True}}, "labels"),
        ({"labels": {"0": "background", "1": "liver", "2": "liver"}}, "labels"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order"),
        ({"labels": {"background": 0, "whole": [1, 2]}, "regions_class_order": [3]}, "regions_class_order"),
        ({"labels": {"background": 0, "whole": [1, 2]}, "regions_class_order": [1, 2]}, "regions_class_order"),
        ({"labels": {"background": 0, "whole": []}, "regions_class_order": [1]}, "labels"),
    ],
)
def test_faulty_labels(content, kind):
    scheme, kinds = labels_of(content)
    assert scheme is None
    assert kinds == [kind]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"modality": {"0": "CT", "1": "PET"}}, ("CT", "PET")),
        ({"modality": {"1": "MRI", "0": "MRI"}}, ("MRI", "MRI")),
        ({"modality": {"CT": 0, "PET": 1}}, ("CT", "PET")),
        ({"channel_names": {"0": "noNorm"}, "modality": {"0": "CT"}}, ("noNorm",)),
        ({"modality": ["T1", "T2"]}, ("T1", "T2")),
    ],
)
def test_channels(content, expected):
    findings = []
    assert parse_channels(content, findings) == expected
    assert not findings


@pytest.mark.parametrize("content", [{}, {"modality": {}}, {"modality": {"1": "CT"}}, {"modality": {"a": "b"}}])
def test_faulty_channels(content):
    findings = []
    parse_channels(content, findings)
    assert [f.kind for f in findings] == ["channels"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"labels": {"background": 0, "background": 1}}', "stands twice"),
        ('{"a": NaN}', "not a finite"),
        ('{"a": Infinity}', "not a finite"),
        ('{"a": 1e999}', "not a finite"),
        ('{"labels": ', "no readable JSON"),
        ("", "no readable JSON"),
        ("[1, 2]", "JSON object"),
        ("[" * 100_000, "no readable JSON"),
    ],
)
def test_text_that_is_not_strict_json(tmp_path, text, words):
    path = tmp_path / "dataset.json"
    path.write_text(text)
    assert words in " ".join(finding.message for finding in read_description(path).findings)


def test_byte_order_marks(tmp_path):
    path = tmp_path / "dataset.json"
    text = json.dumps({"modality": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 9})
    path.write_bytes(text.encode("utf-8-sig"))
    assert parse_dataset_json(path)[1] == 9
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-8"):
        parse_dataset_json(path)


def test_dataset_json_alone_names_all_its_faults(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"liver": 1}, "numTraining": 0}))
    with pytest.raises(DataError) as caught:
        parse_dataset_json(path)
    for word in ("channels", "background", "numTraining"):
        assert word in str(caught.value)


def test_training_of_null_is_a_fault_not_a_crash(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"modality": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "training": None}))
    with pytest.raises(DataError, match="numTraining is None"):
        parse_dataset_json(path)


def test_reference_descriptions(shared_reference):
    found = {}
    for path in sorted((shared_reference / "decathlon_fingerprints").glob("*.dataset.json")):
        dataset, num_training = parse_dataset_json(path)
        found[dataset.name] = (num_training, len(dataset.channel_names), dataset.labels.num_entries)
    assert found["BRATS"] == (484, 4, 4)
    assert found["Hippocampus"] == (260, 1, 3)
    assert len(found) == 6
