"""Arrays in, those that a script computes from them in the peers' interpreter out."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest


def run_peer(script, given, folder):
    """Results of `tests/differential/<script>` for the arrays `given`; skips where no interpreter is named."""
    named = os.environ.get("AUTOSEG_PEER_PYTHON")
    if not named:
        pytest.skip("AUTOSEG_PEER_PYTHON names no interpreter that has nnU-Net")
    np.savez(folder / "given.npz", **given)
    command = [named, str(Path(__file__).with_name(script)), str(folder / "given.npz"), str(folder / "results.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "results.npz"))
