"""Every place in a training has its own, reproducible generator."""

import itertools

from autoseg.training.rng import sample_rng


def test_same_place_same_numbers() -> None:
    assert sample_rng(1, 2, 3, 4).random(5).tolist() == sample_rng(1, 2, 3, 4).random(5).tolist()


def test_neighbouring_places_differ() -> None:
    first = {
        sample_rng(*place).random() for place in itertools.product((0, 1), (0, 1, 10), (0, 1, 10), (0, 1, 2**32 - 1))
    }
    assert len(first) == 2 * 3 * 3 * 3
