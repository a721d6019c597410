"""What the label values of a dataset mean; alone decides softmax or sigmoid, loss mask and conversion.

Inside autoseg the classes are numbered 0, 1, 2, ... (0 is background) whatever the values in the
files; `to_internal` and `to_file` convert. Voxels to ignore get the internal value `num_classes`.
"""

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from autoseg.errors import DataError
from autoseg.records.base import Record
from autoseg.records.distractors import DISTRACTOR

IntArray = npt.NDArray[np.integer]

_LARGEST_TABLE = 1 << 20


class Target(Record):
    """Something to be segmented and scored: a class, or a region made of several classes."""

    name: str
    """Name in the dataset's own words."""
    members: tuple[int, ...]
    """Internal class numbers whose union is this target."""


class LabelScheme(Record):
    """The classes and regions of a dataset."""

    class_names: tuple[str, ...]
    """Names of the classes; position = internal number; the first is the background."""
    class_values: tuple[int, ...]
    """Values in the label files, one a class, any integers; the first is the background's."""
    regions: tuple[Target, ...] = ()
    """Overlapping regions to be predicted with one sigmoid each (nnU-Net's region-based training); empty: softmax."""
    region_order: tuple[int, ...] = ()
    """Internal class painted for each region, in this order, later over earlier (`regions_class_order`)."""
    ignore_value: int | None = None
    """Value in the label files of voxels that enter neither loss nor score."""
    num_entries: int
    """Entries of `labels` in dataset.json, background and ignore included (nnU-Net's memory rule counts them)."""

    @model_validator(mode="after")
    def _consistent(self) -> "LabelScheme":
        if len(self.class_names) != len(self.class_values) or len(self.class_names) < 2:
            raise ValueError("a scheme needs a background and at least one class, each with one value")
        if len(set(self.class_values)) != len(self.class_values) or self.ignore_value in self.class_values:
            raise ValueError(f"label values must differ, got {self.class_values} and ignore {self.ignore_value}")
        if len(self.region_order) != len(self.regions):
            raise ValueError("regions_class_order must have one entry a region")
        numbers = range(1, len(self.class_names))
        if any(m not in numbers for t in self.regions for m in t.members) or any(
            o not in numbers for o in self.region_order
        ):
            raise ValueError("regions and regions_class_order may only name foreground classes of this scheme")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    @property
    def has_regions(self) -> bool:
        """Whether the network predicts overlapping regions (sigmoid) instead of classes (softmax)."""
        return bool(self.regions)

    @property
    def num_heads(self) -> int:
        """Output channels of the network: classes with background, or regions."""
        return len(self.regions) if self.regions else self.num_classes

    @property
    def ignore_index(self) -> int | None:
        """Internal value of voxels to ignore, None when the dataset has no such label."""
        return None if self.ignore_value is None else self.num_classes

    def with_distractor(self) -> "LabelScheme":
        """This scheme with one class more, the last: voxels that look like foreground and are background.

        It has a head of its own (with regions: a region of its own, painted last). The internal value of voxels to
        ignore moves up by one, since it is the number of classes. Stored labels stay in the numbers of this scheme.
        """
        taken = (*self.class_values, *(() if self.ignore_value is None else (self.ignore_value,)))
        name, number = DISTRACTOR, self.num_classes
        while name in self.class_names or name in (region.name for region in self.regions):
            name += "_"
        return self.model_copy(
            update={
                "class_names": (*self.class_names, name),
                "class_values": (*self.class_values, max(taken) + 1),
                "regions": (*self.regions, Target(name=name, members=(number,))) if self.regions else (),
                "region_order": (*self.region_order, number) if self.regions else (),
                "num_entries": self.num_entries + 1,
            }
        )

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is scored: the regions, or each foreground class."""
        if self.regions:
            return self.regions
        return tuple(Target(name=self.class_names[i], members=(i,)) for i in range(1, self.num_classes))

    def to_internal(self, values: IntArray, where: str = "label") -> npt.NDArray[np.int16]:
        """Map values as stored in label files to internal numbers (same shape).

        Raises:
            DataError: a value is not in the scheme; all such values are named.
        """
        known = dict(zip(self.class_values, range(self.num_classes), strict=True))
        if self.ignore_value is not None:
            known[self.ignore_value] = self.num_classes
        low, high = int(values.min()), int(values.max())
        if high - low >= _LARGEST_TABLE:  # far apart values would need a huge table; rare enough to be slow
            unknown = [int(v) for v in np.unique(values) if int(v) not in known]
        else:
            table = np.full(high - low + 1, -1, dtype=np.int16)
            for value, number in known.items():
                if low <= value <= high:
                    table[value - low] = number
            mapped: npt.NDArray[np.int16] = table[values if low == 0 else values.astype(np.int64) - low]
            if (mapped >= 0).all():
                return mapped
            unknown = [int(v) for v in np.unique(values[mapped < 0])]
        if unknown:
            raise DataError(f"{where}: values {unknown} are not among the labels {sorted(known)} of dataset.json.")
        slow = np.zeros(values.shape, dtype=np.int16)
        for value, number in known.items():
            slow[values == value] = number
        return slow

    def to_file(self, classes: IntArray) -> IntArray:
        """Map internal class numbers to file values, in the smallest integer type that holds them all."""
        table = np.array(self.class_values, dtype=smallest_integer_type(self.class_values))
        mapped: IntArray = table[classes]
        return mapped


def smallest_integer_type(values: tuple[int, ...]) -> np.dtype[np.integer]:
    """The smallest integer type that image formats know and that holds all `values`."""
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        info = np.iinfo(kind)
        if info.min <= min(values) and max(values) <= info.max:
            return np.dtype(kind)
    raise DataError(f"Label values {min(values)} to {max(values)} do not fit into 32 bits.")
