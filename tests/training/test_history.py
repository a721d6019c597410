"""The history survives crashes and forgets what is done again; the curve is a picture."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import ModelError
from autoseg.records.results import EpochRecord
from autoseg.training.curve import CURVE, draw_curve
from autoseg.training.history import HISTORY, append_epoch, keep_epochs, read_history


def _record(epoch: int, loss: float | None = 0.5) -> EpochRecord:
    return EpochRecord(epoch=epoch, steps=epoch + 1, train_loss=loss, learning_rate=0.1, seconds=1.0)


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    records = [_record(0), _record(1, None), _record(2)]
    for record in records:
        append_epoch(tmp_path, record)
    assert read_history(tmp_path) == records


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    append_epoch(tmp_path, _record(0))
    with (tmp_path / HISTORY).open("a") as stream:
        stream.write('{"epoch": 1, "ste')
    assert read_history(tmp_path) == [_record(0)]
    with (tmp_path / HISTORY).open("a") as stream:
        stream.write("\n{}\n")
    with pytest.raises(ModelError, match="line 2"):
        read_history(tmp_path)


def test_epochs_done_again_are_cut_off(tmp_path: Path) -> None:
    for epoch in range(4):
        append_epoch(tmp_path, _record(epoch))
    assert [r.epoch for r in keep_epochs(tmp_path, 2)] == [0, 1]
    assert [r.epoch for r in read_history(tmp_path)] == [0, 1]


def test_the_curve_is_a_png(tmp_path: Path) -> None:
    draw_curve(tmp_path, [_record(0), _record(1, None), _record(2)], "3d_fullres fold 0")
    assert (tmp_path / CURVE).read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_curve_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    draw_curve(tmp_path, [_record(0)], "x")
    assert not (tmp_path / CURVE).exists()
