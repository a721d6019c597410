"""The corridor: one file a stage; `flow` alone knows their order."""
