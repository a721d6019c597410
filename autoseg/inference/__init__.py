"""Networks and preprocessed arrays in, segmentations on the file's own grid out."""
