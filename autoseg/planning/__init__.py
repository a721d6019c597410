"""A `Fingerprint` and a `Dataset` in, a `Plan` out."""
