import pytest

from autoseg.planning.normalization import choose_normalization


def test_schemes_by_name_without_regard_to_case() -> None:
    names = ["CT", "cT", "noNorm", "NONORM", "zscore", "Rescale_To_0_1", "rgb_to_0_1", "MRI", "CT "]
    schemes, _ = choose_normalization(names, 1.0)
    assert schemes == ("ct", "ct", "none", "none", "zscore", "rescale", "rgb", "zscore", "zscore")


@pytest.mark.parametrize(("share", "masked"), [(0.75, False), (0.7499, True), (1.0, False)])
def test_only_z_scores_use_the_mask_and_only_where_much_is_background(share: float, masked: bool) -> None:
    assert choose_normalization(["CT", "MRI", "noNorm"], share)[1] == (False, masked, False)
