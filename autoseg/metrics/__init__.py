"""Masks in, scores out; what empty masks mean is defined here."""
