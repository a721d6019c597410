"""References and held-out probabilities in, what is probably wrong with the references out."""
