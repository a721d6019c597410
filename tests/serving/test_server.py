"""A real process that is told to stop: SIGTERM sends the queue away and answers the image in work; nothing stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra autoseg-medical[serve] is not installed")
import httpx

from autoseg.images.writing import write_image
from tests.pipeline.fakes import blobs, image_of, make_plan, oblique_grid, write_fold

pytestmark = pytest.mark.slow

CHILD = """
import sys, time
from pathlib import Path
from autoseg.api import LoadedModel
from autoseg.cli.main import main
from tests.pipeline.fakes import make_plan

make_plan()  # makes its network known
original = LoadedModel.segment_volume

def slow(self, *arguments):
    while not Path("go").exists():
        time.sleep(0.01)
    return original(self, *arguments)

LoadedModel.segment_volume = slow
sys.exit(main(["serve", "model", "--port", "0", "--device", "cpu"]))
"""


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    (folder / "tmp").mkdir(exist_ok=True)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = child.stdout.readline().split(" on ")[1].split()[0]
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield child, client
    finally:
        child.kill()
        child.communicate()


def until_seated(client: httpx.Client, number: int) -> None:
    while client.get("/health").json()["seats_taken"] != number:
        time.sleep(0.02)


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    write_fold(tmp_path / "model" / "fold_0", make_plan())
    write_image(tmp_path / "scan.nii.gz", image_of(blobs()), oblique_grid(blobs().shape))
    return (tmp_path / "scan.nii.gz").read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_image_in_work_is_answered(tmp_path: Path, content: bytes, sent: signal.Signals) -> None:
    with process(tmp_path) as (child, client), ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/segment", content=content)
        until_seated(client, 1)
        second = pool.submit(client.post, "/segment", content=content)
        until_seated(client, 2)
        child.send_signal(sent)
        refused = second.result(timeout=30)
        assert (refused.status_code, "The service ends" in refused.json()["detail"]) == (503, True)
        assert not first.done()
        (tmp_path / "go").touch()
        assert first.result(timeout=30).status_code == 200
        out, err = child.communicate(timeout=30)
        assert child.returncode == (0 if sent == signal.SIGINT else -signal.SIGTERM)
        assert "stopping when the image in work is answered" in err
        assert "Traceback" not in out + err
    assert not list((tmp_path / "tmp").iterdir())


def test_interrupted_twice_it_ends_now_and_the_next_start_removes_what_it_left(tmp_path: Path, content: bytes) -> None:
    with process(tmp_path) as (child, client), ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/segment", content=content)
        until_seated(client, 1)
        child.send_signal(signal.SIGINT)
        while client.get("/health").status_code != 503:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        with pytest.raises(httpx.TransportError):
            first.result(timeout=30)
        child.wait(timeout=30)
        assert child.returncode == 130
    (left,) = (tmp_path / "tmp").iterdir()
    assert list(left.rglob("image.nii.gz"))
    with process(tmp_path) as (child, client):
        while client.get("/health").status_code != 200:
            time.sleep(0.02)
        assert not left.exists()
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=30)
    assert not list((tmp_path / "tmp").iterdir())
