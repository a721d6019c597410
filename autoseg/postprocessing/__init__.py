"""Segmentations in, segmentations without false-positive components out."""
