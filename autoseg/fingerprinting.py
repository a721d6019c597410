"""Voxel measurements of a dataset: one pass over its files."""
