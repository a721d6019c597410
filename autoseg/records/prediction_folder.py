"""Names of the tables that lie beside segmentations and speak of all of them together."""

MEASUREMENTS = "measurements.csv"
EVALUATION, EVALUATION_TABLE = "evaluation.json", "evaluation.csv"
COMPARISON, COMPARISON_TABLE = "comparison.json", "comparison.csv"
COMPONENT_SHIFT = "component_shift.json"

TABLES = (EVALUATION, EVALUATION_TABLE, COMPARISON, COMPARISON_TABLE, COMPONENT_SHIFT, MEASUREMENTS)
"""None of them holds any more once one of the segmentations is another one."""
