"""Out-of-fold segmentations in, a rule against false-positive components out, and the rule applied."""
