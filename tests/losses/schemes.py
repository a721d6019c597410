"""Label schemes of each kind: classes, classes with an ignore label, regions."""

from autoseg.records.labels import LabelScheme, Target

CLASSES = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
IGNORING = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=4, ignore_value=3)
REGIONS = LabelScheme(
    class_names=("background", "a", "b"),
    class_values=(0, 1, 2),
    num_entries=3,
    regions=(Target(name="all", members=(1, 2)), Target(name="inner", members=(2,))),
    region_order=(1, 2),
)
