"""Segmentation networks as torch modules; one literal table of names."""
