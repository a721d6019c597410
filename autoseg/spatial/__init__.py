"""Geometry on arrays: turning, cropping, resampling, tiles, components."""
