"""Out-of-fold predictions in, the best configuration or ensemble out."""
