"""The stages, one file each; `flow` alone knows their order."""
