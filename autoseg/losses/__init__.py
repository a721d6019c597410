"""Segmentation losses on logits and class maps; one literal table of names."""
