"""Preprocessed cases and a `Configuration` in, trained weights out."""
