"""What travels between stages: frozen, validated records and the workspace paths they lie at."""
