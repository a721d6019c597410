"""A service on a real socket, and images for it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from autoseg.api import LoadedModel
from autoseg.images.writing import write_image
from autoseg.serving.app import Limits, make_app
from autoseg.serving.server import Server, listen
from tests.pipeline.fakes import blobs, image_of, oblique_grid

TOKEN = "a token of more than sixteen letters"


@contextmanager
def served(model: LoadedModel, limits: Limits | None = None, token: str | None = None) -> Iterator[httpx.Client]:
    with running(model, limits, token) as (_, client):
        yield client


@contextmanager
def running(
    model: LoadedModel, limits: Limits | None = None, token: str | None = None
) -> Iterator[tuple[Server, httpx.Client]]:
    server, listening = Server(make_app(model, limits or Limits(), token)), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = listening.getsockname()[1]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120, trust_env=False) as client:
            yield server, client
    finally:
        server.should_exit = True
        thread.join()


def put(folder: Path, name: str, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    classes = blobs((9 + seed % 5, 12 + seed % 3, 10), seed)
    image = image_of(classes) + rng.normal(0, 20, classes.shape).astype(np.float32)
    write_image(folder / name, image, oblique_grid(classes.shape))
    return (folder / name).read_bytes()


def until_seated(client: httpx.Client, number: int) -> None:
    while client.get("/health").json()["seats_taken"] != number:
        time.sleep(0.01)
