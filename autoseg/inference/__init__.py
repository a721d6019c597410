"""Networks and a preprocessed image in, labels or probabilities on the image file's own grid out."""
