"""A previous stage's labels on the next stage's grid: turned, cropped and resampled as the image was."""

import numpy as np

from autoseg.inference.cascade_labels import native_labels_on_grid
from tests.preprocessing.cases import plan, prepare_case
from tests.preprocessing.test_prepare import oblique_case


def test_labels_come_where_the_image_is() -> None:
    """Labels prepared beside the image (as for training) and brought over alone are the same."""
    image, label = oblique_case()
    chosen = plan(spacing_mm=(2.5, 1.2, 0.9), transpose=(1, 0, 2))
    prepared = prepare_case("a", image, label, chosen, "3d_fullres")
    assert prepared.labels is not None
    assert len(np.unique(prepared.labels)) == 3
    internal = chosen.labels.to_internal(label.array[0])
    np.testing.assert_array_equal(native_labels_on_grid(internal, prepared.meta), prepared.labels)
