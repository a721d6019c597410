"""Dataset folders in, `Dataset` and `Folds` records and lists of faults out."""
