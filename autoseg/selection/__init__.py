"""Out-of-fold probabilities of several configurations in, the best one or the best ensemble out."""
