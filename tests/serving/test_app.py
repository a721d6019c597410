"""The service, asked by a real client over a real socket: right answers under load, refusals, no word about images."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra autoseg-medical[serve] is not installed")
import httpx
import uvicorn

from autoseg import console, load_model
from autoseg.api import LoadedModel
from autoseg.cli.main import main
from autoseg.images.reading import read_label
from autoseg.images.writing import write_image
from autoseg.pipeline.predict import predict
from autoseg.serving.app import Limits, make_app
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, oblique_grid, write_fold

TOKEN = "a token of more than sixteen letters"


@contextmanager
def served(model: LoadedModel, limits: Limits | None = None, token: str | None = None) -> Iterator[httpx.Client]:
    app = make_app(model, limits or Limits(), token)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_fold(folder / "model" / "fold_0", make_plan(spacing_mm=(2.3, 1.1, 1.2), patch=(4, 6, 8)))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(folder / "model", device="cpu")


def put(folder: Path, name: str, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    classes = blobs((9 + seed % 5, 12 + seed % 3, 10), seed)
    image = image_of(classes) + rng.normal(0, 20, classes.shape).astype(np.float32)
    write_image(folder / name, image, oblique_grid(classes.shape))
    return (folder / name).read_bytes()


def test_the_answer_is_the_file_that_predict_writes(folder: Path, model: LoadedModel) -> None:
    content = put(folder / "images", "case.nii.gz", 3)
    (path,) = predict(folder / "model", folder / "images", folder / "out", device="cpu")
    with served(model) as client:
        answer = client.post("/segment", content=content)
        described = client.get("/model").json()
        paths = client.get("/openapi.json").json()["paths"]
        assert client.get("/health").json() == {"status": "ready", "seats_taken": 0, "seats": 16}
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    assert set(np.unique(read_label(path).array)) == set(LABELS.class_values)
    assert answer.headers["x-autoseg-model"] == described["digest"] == model.predictor.digest
    assert described["labels"] == {"background": 0, "a": 3, "b": 700}
    assert set(paths) == {"/segment", "/health", "/model", "/metrics"}
    assert {"200", "401", "408", "413", "422", "429", "503"} <= set(paths["/segment"]["post"]["responses"])
    assert paths["/segment"]["post"]["requestBody"]["required"]


def test_the_page_runs(folder: Path, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented client, word for word but for the port."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "serve_a_model.md").read_text("utf-8")
    source = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    content = put(tmp_path, "scan.nii.gz", 4)
    with served(model) as client:
        exec(compile(source.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/")), "page", "exec"), {})
        assert client.post("/segment", content=content).content == (tmp_path / "segmentation.nii.gz").read_bytes()


def ask_many(folder: Path, model: LoadedModel, num_requests: int, at_a_time: int) -> None:
    """Every request's image differs; each must get its own answer, and none may be lost."""
    name = f"many_{num_requests}"
    contents = [put(folder / name, f"c_{number:03d}.nii.gz", number) for number in range(num_requests)]
    written = predict(folder / "model", folder / name, folder / f"{name}_out", device="cpu")
    wanted = [path.read_bytes() for path in written]
    assert len(set(wanted)) > 0.9 * num_requests
    with served(model) as client, ThreadPoolExecutor(at_a_time) as pool:
        answers = list(pool.map(lambda content: client.post("/segment", content=content), contents))
        counts = client.get("/metrics").text
        assert client.get("/health").json()["seats_taken"] == 0
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.content for answer in answers] == wanted
    assert f'autoseg_requests_total{{status="200"}} {num_requests}\n' in counts
    assert f"autoseg_segmentation_seconds_count {num_requests}\n" in counts
    assert f"autoseg_received_bytes_total {sum(map(len, contents))}\n" in counts


def test_requests_are_not_mixed_up(folder: Path, model: LoadedModel) -> None:
    ask_many(folder, model, 16, 8)


@pytest.mark.slow
def test_two_hundred_requests_eight_at_a_time(folder: Path, model: LoadedModel) -> None:
    ask_many(folder, model, 200, 8)


def test_those_who_find_no_seat_are_sent_away(folder: Path, model: LoadedModel, monkeypatch) -> None:
    content, go, original = put(folder, "wait.nii.gz", 1), threading.Event(), LoadedModel.segment_volume

    def slow(self: LoadedModel, *arguments):
        assert go.wait(30)
        return original(self, *arguments)

    monkeypatch.setattr(LoadedModel, "segment_volume", slow)
    with served(model, Limits(num_seats=2)) as client, ThreadPoolExecutor(2) as pool:
        seated = [pool.submit(client.post, "/segment", content=content) for _ in range(2)]
        while client.get("/health").json()["seats_taken"] < 2:
            time.sleep(0.01)
        refused = client.post("/segment", content=content)
        go.set()
        assert [one.result().status_code for one in seated] == [200, 200]
        assert client.post("/segment", content=content).status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_who_waits_too_long_is_told(folder: Path, model: LoadedModel) -> None:
    content = put(folder, "late.nii.gz", 1)
    with served(model, Limits(waiting_seconds=-1.0)) as client:
        assert client.post("/segment", content=content).status_code == 503


def test_large_images_are_refused(folder: Path, model: LoadedModel) -> None:
    content = put(folder, "large.nii.gz", 1)
    with served(model, Limits(most_bytes=len(content) - 1)) as client:
        assert client.post("/segment", content=content).status_code == 413
        chunked = client.post("/segment", content=iter([content[:50], content[50:]]))
        assert chunked.status_code == 413
    with served(model, Limits(most_voxel_bytes=1000)) as client:
        answer = client.post("/segment", content=content)
        assert answer.status_code == 413
        assert "unpacks to" in answer.json()["detail"]


def test_faulty_images_are_explained_and_nothing_of_them_is_told(folder: Path, model: LoadedModel, capsys) -> None:
    console.configure(quiet=False)
    content = put(folder, "fine.nii.gz", 2)
    two = np.concatenate([image_of(blobs())] * 2)
    write_image(folder / "two.nii.gz", two, oblique_grid(blobs().shape))
    with served(model) as client:
        for body in (b"", b"John Doe, no image", content[: len(content) // 2], (folder / "two.nii.gz").read_bytes()):
            answer = client.post("/segment", content=body)
            assert answer.status_code == 422
            assert "image" in answer.json()["detail"]
            assert "autoseg_serve_" not in answer.text
        assert client.post("/segment", content=content).status_code == 200
    told = capsys.readouterr()
    assert "John" not in told.out + told.err
    assert "nii" not in told.out + told.err
    assert told.err.count("422 after") == 4


def test_an_error_of_the_program_ends_one_request_alone(folder: Path, model: LoadedModel, monkeypatch, capsys) -> None:
    content = put(folder, "bug.nii.gz", 1)
    with served(model) as client:
        with monkeypatch.context() as patch:
            patch.setattr(LoadedModel, "segment_volume", lambda *_: {}["John Doe"])
            answer = client.post("/segment", content=content)
        assert (answer.status_code, answer.json()["detail"]) == (500, "The segmentation failed: KeyError.")
        assert client.post("/segment", content=content).status_code == 200
    assert "John" not in capsys.readouterr().err


def test_a_token_guards_all_but_health(folder: Path, model: LoadedModel) -> None:
    content = put(folder, "guarded.nii.gz", 1)
    with served(model, token=TOKEN) as client:
        assert client.post("/segment", content=content).status_code == 200
        assert client.get("/model").status_code == client.get("/metrics").status_code == 200
        for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}, {"Authorization": "Bearer \u00e9"}):
            encoded = {name: value.encode("utf-8") for name, value in headers.items()}
            assert client.post("/segment", content=content, headers=encoded).status_code == 401
            assert client.get("/model", headers=encoded).status_code == 401
            assert client.get("/metrics", headers=encoded).status_code == 401
            assert client.get("/health", headers=encoded).status_code == 200


def test_other_names_of_the_host_are_refused(model: LoadedModel) -> None:
    """A web page whose name was made to point at this machine."""
    with served(model) as client:
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400


def test_pages_in_browsers_are_refused(folder: Path, model: LoadedModel) -> None:
    """A page may send a simple request to this machine without asking; it cannot leave out its origin."""
    content = put(folder, "page.nii.gz", 2)
    with served(model) as client:
        assert client.post("/segment", content=content, headers={"Origin": "https://evil.example"}).status_code == 403
        assert client.get("/model", headers={"Origin": "null"}).status_code == 403


def test_the_command_refuses_what_is_not_safe(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("AUTOSEG_TOKEN", raising=False)
    assert main(["serve", str(folder / "model"), "--host", "0.0.0.0"]) == 2
    assert "set a token" in capsys.readouterr().err
    (folder / "token").write_text("short")
    assert main(["serve", str(folder / "model"), "--token-file", str(folder / "token")]) == 2
    assert "16 ASCII" in capsys.readouterr().err
    assert main(["serve", str(folder / "nothing")]) == 6
    called = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: called.update(options))
    assert main(["serve", str(folder / "model"), "--port", "0", "--device", "cpu"]) == 0
    assert (called["host"], called["access_log"]) == ("127.0.0.1", False)
