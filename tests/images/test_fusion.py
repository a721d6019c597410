"""Fusion: votes by hand, STAPLE against SimpleITK's own filters, ties returned as ties."""

import numpy as np
import pytest
import SimpleITK

from autoseg.images.fusion import majority, staple


def raters(seed: int, num_classes: int, num: int = 3, wrong: float = 0.15) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros((6, 12, 12), np.int16)
    for number in range(1, num_classes):
        truth[1:5, 2:10, 1 + 3 * number : 4 + 3 * number] = number
    given = []
    for rater in range(num):
        label = truth.copy()
        flipped = rng.random(truth.shape) < wrong * (rater + 1) / num
        label[flipped] = rng.integers(0, num_classes, int(flipped.sum()))
        given.append(label)
    return given


def test_votes_by_hand() -> None:
    given = [np.array([[values]], np.int16) for values in ([0, 1, 2, 1, 300], [0, 1, 2, 2, 300], [1, 2, 2, 0, 0])]
    fused, ties = majority(given)
    assert fused[0, 0].tolist() == [0, 1, 2, 0, 300]
    assert ties[0, 0].tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_vote_is_what_counting_gives(num_classes: int) -> None:
    given = raters(0, num_classes, num=4)
    counts = np.stack([np.sum([rater == number for rater in given], axis=0) for number in range(num_classes)])
    fused, ties = majority(given)
    expected_ties = (counts == counts.max(axis=0)).sum(axis=0) > 1
    assert np.array_equal(ties, expected_ties)
    assert expected_ties.any()
    assert np.array_equal(fused[~ties], counts.argmax(axis=0)[~ties])


def test_staple_of_one_class_is_staple_at_one_half() -> None:
    given = raters(1, 2, wrong=0.4)
    fused, _, sensitivity = staple(given)
    images = [SimpleITK.GetImageFromArray(rater.astype(np.uint8)) for rater in given]
    reference = SimpleITK.STAPLEImageFilter()
    probable = SimpleITK.GetArrayFromImage(reference.Execute(images))
    assert np.array_equal(fused, probable >= 0.5)
    assert sensitivity[:, 1] == pytest.approx(reference.GetSensitivity(), abs=1e-3)
    assert sensitivity[:, 0] == pytest.approx(reference.GetSpecificity(), abs=1e-3)


def test_staple_of_several_classes_is_simpleitks() -> None:
    given = raters(2, 4)
    fused, ties, sensitivity = staple(given)
    images = [SimpleITK.GetImageFromArray(rater.astype(np.uint8)) for rater in given]
    expected = SimpleITK.GetArrayFromImage(SimpleITK.MultiLabelSTAPLE(images))
    assert np.array_equal(fused[~ties], expected[~ties])
    assert (expected[ties] == 4).all()
    assert sensitivity.shape == (3, 4)
    assert (np.diff(sensitivity.mean(axis=1)) < 0).all(), "the first rater errs least, the last one most"


def test_staple_trusts_the_reliable_rater() -> None:
    """Where the two careless raters agree against the careful one a vote follows them, STAPLE need not."""
    rng = np.random.default_rng(3)
    truth = np.zeros((4, 40, 40), np.int16)
    truth[:, 10:30, 10:30] = 1
    careful = truth.copy()
    careless = [np.where(rng.random(truth.shape) < 0.35, 1 - truth, truth).astype(np.int16) for _ in range(2)]
    voted = majority([careful, *careless])[0]
    fused = staple([careful, *careless])[0]
    assert (fused != truth).sum() < (voted != truth).sum()


def test_nothing_but_background() -> None:
    empty = [np.zeros((2, 3, 4), np.int16)] * 2
    for fused, ties in (majority(empty), staple(empty)[:2]):
        assert not fused.any()
        assert not ties.any()
