"""The interpreter that has a peer; arrays in, those that a script computes from them in it out."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def peer_python(package="nnunetv2"):
    """This interpreter where it has `package`, else the one that AUTOSEG_PEER_PYTHON names; skips without either."""
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    named = os.environ.get("AUTOSEG_PEER_PYTHON")
    if not named:
        pytest.skip(f"{package} is not installed here and AUTOSEG_PEER_PYTHON names no interpreter that has it")
    return named


def run_peer(script, given, folder, package="nnunetv2"):
    """Results of `tests/differential/<script>` for the arrays `given`, computed where `package` is."""
    python = peer_python(package)
    np.savez(folder / "given.npz", **given)
    command = [python, str(Path(__file__).with_name(script)), str(folder / "given.npz"), str(folder / "results.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "results.npz"))
