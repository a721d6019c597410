"""What a training was begun with, as digests: compared with what is there later, so that nothing old passes for new."""

from autoseg.records.base import Record


class TrainingInputs(Record):
    """Everything outside the plan that decides a training of one configuration and fold."""

    cases: dict[str, str]
    """Case id -> digest of its image and label files, of the cases trained on and held out."""
    preprocessing: str
    """Digest of all that decides the preprocessed voxels beside those files."""
    previous_stage: str | None = None
    """Digest of the weights of all folds of a cascade's previous stage; None: no cascade, or they are not trained."""
    base: str | None = None
    """Likewise of the configuration whose false positives are taught; None: none are, or its folds are not trained."""
    origin: str | None = None
    """Digest of the weights of the model that it starts from; None: from the seed, or from `base`."""


def describe_changes(then: TrainingInputs, now: TrainingInputs) -> list[str]:
    """What changed in between, a phrase each; cases that came or went are not looked for."""
    changed = sorted(case for case, digest in then.cases.items() if now.cases.get(case, digest) != digest)
    found = []
    if changed:
        more = f" and {len(changed) - 10} more" if len(changed) > 10 else ""
        found.append(f"files of {', '.join(changed[:10])}{more} changed")
    if then.preprocessing != now.preprocessing:
        found.append("cases are preprocessed otherwise")
    for before, after, what in (
        (then.previous_stage, now.previous_stage, "its previous stage"),
        (then.base, now.base, "the configuration whose false positives it is taught"),
        (then.origin, now.origin, "the model that it starts from"),
    ):
        if None not in (before, after) and before != after:
            found.append(f"{what} was trained anew")
    return found
