"""Thin commands: parse, call a stage, print."""
