"""A target (class or region) in; its head, and the classes that its voxels have, get or lose, out."""

from autoseg.records.labels import LabelScheme


def head_of(labels: LabelScheme, target: int) -> int:
    """Channel of the probabilities that belongs to a target."""
    return target if labels.has_regions else target + 1


def painted_class(labels: LabelScheme, target: int) -> int:
    """Class that a voxel gets when it is restored to a target."""
    return labels.region_order[target] if labels.has_regions else target + 1


def fallback_class(labels: LabelScheme, target: int) -> int:
    """Class that a voxel gets when its component of a target is removed: that of the smallest region around it."""
    members = set(labels.targets[target].members)
    around = [
        (len(other.members), position)
        for position, other in enumerate(labels.targets)
        if members < set(other.members) and painted_class(labels, position) not in members
    ]
    return painted_class(labels, min(around)[1]) if around else 0


def restorable_classes(labels: LabelScheme, target: int) -> tuple[int, ...]:
    """Classes of voxels that may be restored to a target: background and those of regions around it."""
    members = set(labels.targets[target].members)
    around = {m for other in labels.targets if members < set(other.members) for m in other.members}
    return (0, *sorted(around - members))
