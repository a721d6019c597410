"""What is said where an interrupted training goes on."""

import pytest

from autoseg import console
from autoseg.devices import describe_device
from autoseg.training.resuming import warn_of_another_device
from tests.training.tools import CPU, SCHEDULE


def test_another_device_or_number_of_threads_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(console._state, "quiet", False)
    warn_of_another_device("2d fold 0", SCHEDULE.model_copy(update={"device": describe_device(CPU)}), CPU)
    assert capsys.readouterr().err == ""
    warn_of_another_device("2d fold 0", SCHEDULE.model_copy(update={"device": "cpu (977 threads)"}), CPU)
    assert "was begun on cpu (977 threads) and goes on on cpu (" in capsys.readouterr().err
