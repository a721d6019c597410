"""Made-up tables of judged components: no images, no networks, a planted answer."""

import numpy as np

from autoseg.postprocessing.component_list import DECIDED
from autoseg.postprocessing.rows import Rows

NAMES = ("volume_mm3", "volume_rank", "probability_mean", "body_z", "body_y", "body_x", "sphericity", "flatness")
"""Real columns, so that signs and logarithms are known; `volume_mm3` and `volume_rank` come from the sizes."""


def make_rows(
    truth: list[list[int]],
    sizes: list[list[int]],
    features: np.ndarray,
    groups: list[str] | None = None,
    decided: list[list[bool]] | None = None,
    missed: int = 0,
) -> Rows:
    """One target; a true component covers its lesion entirely, a false one nothing.

    Args:
        truth: of each case, 1 or 0 a component.
        sizes: voxels of each.
        features: `n len(NAMES)`; volume and rank are filled in.
        groups: patient of each case.
        decided: whether each is a component of the segmentation; candidates are not in the prediction.
        missed: voxels of one more lesion in each case that nothing finds.
    """
    flat_truth, flat_sizes = (
        np.array([v for case in column for v in case], dtype=np.int64) for column in (truth, sizes)
    )
    flat_decided = np.array([d for case in decided or [[True] * len(c) for c in truth] for d in case], dtype=bool)
    case = np.repeat(np.arange(len(truth)), [len(c) for c in truth])
    features = features.copy()
    features[:, 0] = flat_sizes
    for number in range(len(truth)):
        own = case == number
        bigger = flat_sizes[own & flat_decided]
        features[own, 1] = [(bigger > size).sum() + 1 for size in flat_sizes[own]]
    true_rows = np.flatnonzero(flat_truth == 1)
    extra = np.arange(len(truth)) if missed else np.zeros(0, dtype=np.int64)
    hits = np.where(flat_truth == 1, flat_sizes, 0)
    in_reference = np.bincount(case, weights=hits, minlength=len(truth)).astype(np.int64) + missed
    return Rows(
        cases=tuple(f"case_{i:03d}" for i in range(len(truth))),
        groups=tuple(groups or [f"patient_{i:03d}" for i in range(len(truth))]),
        voxel_mm3=np.ones(len(truth)),
        reference=np.stack([np.full(len(truth), 10**6), in_reference], axis=1),
        names=NAMES,
        features=features,
        case=case,
        target=np.zeros(len(case), dtype=np.int64),
        levels=np.where(flat_decided, DECIDED, 0.3),
        in_largest=features[:, 1] == 1,
        sizes=flat_sizes,
        overlap=hits,
        centres_mm=np.zeros((len(case), 3)),
        truth=flat_truth,
        is_false=flat_truth == 0,
        hit_rows=true_rows,
        hit_lesions=np.arange(len(true_rows)),
        lesion_case=np.concatenate([case[true_rows], extra]),
        lesion_target=np.zeros(len(true_rows) + len(extra), dtype=np.int64),
        atom_case=case,
        atom_class=flat_decided.astype(np.int64),
        atom_rows=np.arange(len(case))[:, None],
        atom_reference=np.stack([flat_sizes - hits, hits], axis=1),
    )


def random_rows(seed: int, num_cases: int = 20, false_share: float = 0.5, per_case: tuple[int, int] = (6, 14)) -> Rows:
    """Components whose features are pure noise: sizes and everything else are drawn alike for true and false ones."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*per_case, num_cases)
    truth = [(rng.random(n) > false_share).astype(int).tolist() for n in counts]
    sizes = [rng.integers(5, 200, n).tolist() for n in counts]
    return make_rows(truth, sizes, rng.random((counts.sum(), len(NAMES))), missed=20)
