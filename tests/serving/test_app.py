"""The service, asked by a real client over a real socket: right answers under load, refusals, no word about images."""

import errno
import gzip
import resource
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra autoseg-medical[serve] is not installed")
import httpx

from autoseg import console, load_model
from autoseg.api import LoadedModel
from autoseg.images.reading import read_label
from autoseg.images.writing import write_image
from autoseg.pipeline.predict import predict
from autoseg.serving import app as app_module
from autoseg.serving.app import Limits
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, oblique_grid, write_fold
from tests.serving.tools import put, running, served, until_seated


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
    for status in (401, 403, 408, 413, 422, 429, 500, 503):
        schema = paths["/segment"]["post"]["responses"][str(status)]["content"]["application/json"]["schema"]
        assert schema["properties"] == {"detail": {"type": "string"}}
    assert {"401", "403"} <= set(paths["/metrics"]["get"]["responses"]) & set(paths["/model"]["get"]["responses"])


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


@pytest.fixture
def held(monkeypatch) -> threading.Event:
    """Every segmentation waits for this."""
    go, original = threading.Event(), LoadedModel.segment_volume

    def slow(self: LoadedModel, *arguments):
        assert go.wait(60)
        return original(self, *arguments)

    monkeypatch.setattr(LoadedModel, "segment_volume", slow)
    return go


def test_those_who_find_no_seat_are_sent_away(folder: Path, model: LoadedModel, held: threading.Event) -> None:
    content = put(folder, "wait.nii.gz", 1)
    with served(model, Limits(num_seats=2)) as client, ThreadPoolExecutor(2) as pool:
        seated = [pool.submit(client.post, "/segment", content=content) for _ in range(2)]
        until_seated(client, 2)
        refused = client.post("/segment", content=content)
        held.set()
        assert [one.result().status_code for one in seated] == [200, 200]
        assert client.post("/segment", content=content).status_code == 200
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_who_waits_too_long_is_told_at_once(folder: Path, model: LoadedModel, held: threading.Event) -> None:
    """While the one before is still in work."""
    content = put(folder, "late.nii.gz", 1)
    with served(model, Limits(waiting_seconds=0.3)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/segment", content=content)
        until_seated(client, 1)
        late = client.post("/segment", content=content)
        assert not first.done()
        held.set()
        assert first.result().status_code == 200
    assert (late.status_code, late.json()["detail"]) == (503, "It waited too long for its turn.")
    assert int(late.headers["retry-after"]) >= 1


def test_told_to_stop_it_sends_the_queue_away_and_answers_the_image_in_work(
    folder: Path, model: LoadedModel, held: threading.Event
) -> None:
    content = put(folder, "stop.nii.gz", 1)
    with running(model) as (server, client), ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/segment", content=content)
        until_seated(client, 1)
        waiting = [pool.submit(client.post, "/segment", content=content) for _ in range(2)]
        until_seated(client, 3)
        server.should_exit = True
        refused = [one.result(timeout=30) for one in waiting]
        assert not first.done()
        late, health = client.post("/segment", content=content), client.get("/health")
        held.set()
        assert first.result(timeout=60).status_code == 200
    for answer in (*refused, late):
        assert (answer.status_code, answer.json()["detail"]) == (503, "The service ends; the image was not segmented.")
    assert (health.status_code, health.json()["status"]) == (503, "ending")


def test_who_hangs_up_gives_its_seat_back(folder: Path, model: LoadedModel, held: threading.Event) -> None:
    content = put(folder, "gone.nii.gz", 1)
    with served(model) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/segment", content=content)
        until_seated(client, 1)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/segment", content=content, timeout=0.5)
        until_seated(client, 1)
        held.set()
        assert first.result().status_code == 200
        assert "autoseg_segmentation_seconds_count 1\n" in client.get("/metrics").text


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


def test_an_image_that_unpacks_to_more_than_it_says_is_refused_early(folder: Path, model: LoadedModel) -> None:
    """A bomb of 1 GiB behind the header of a small image, and a header that says more than there is."""
    honest = gzip.decompress(put(folder, "bomb.nii.gz", 1))
    zeros = gzip.compress(bytes(1 << 24)) * 64
    lying = bytearray(honest)
    lying[42:48] = np.array([30000] * 3, "<i2").tobytes()
    stretched = bytearray(honest)
    stretched[80:92] = np.array([1e4] * 3, "<f4").tobytes()
    stretched[252:256] = bytes(4)  # neither qform nor sform: the spacing decides
    with served(model) as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = client.post("/segment", content=gzip.compress(honest) + zeros)
        assert (answer.status_code, "unpacks to more" in answer.json()["detail"]) == (422, True)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB
        assert client.post("/segment", content=gzip.compress(lying)).status_code == 413
        answer = client.post("/segment", content=gzip.compress(stretched))
        assert (answer.status_code, "mm" in answer.json()["detail"]) == (422, True)


def test_images_of_several_channels(folder: Path) -> None:
    """One file a channel, in any order; one file with all; and every wrong number is told."""
    plan = make_plan(num_channels=2).model_copy(update={"channel_names": ("FLAIR", "T1 w")})
    write_fold(folder / "two" / "fold_0", plan)
    classes = blobs(seed=5)
    other = np.random.default_rng(5).normal(50, 20, classes.shape).astype(np.float32)
    grid, channels = oblique_grid(classes.shape), [image_of(classes)[0], other]
    for number, channel in enumerate(channels):
        write_image(folder / "both" / f"case_{number:04d}.nii.gz", channel[None], grid)
    write_image(folder / "whole" / "case.nii.gz", np.stack(channels), grid)
    (path,) = predict(folder / "two", folder / "both", folder / "both_out", device="cpu")
    flair, t1 = (path.read_bytes() for path in sorted((folder / "both").iterdir()))
    with served(load_model(folder / "two", device="cpu")) as client:
        for files in ([("FLAIR", flair), ("T1 w", t1)], [("T1 w", t1), ("FLAIR", flair)]):
            answer = client.post("/segment", files=files)
            assert answer.status_code == 200
            assert answer.content == path.read_bytes()
        whole = client.post("/segment", content=(folder / "whole" / "case.nii.gz").read_bytes())
        (folder / "answer.nii.gz").write_bytes(whole.content)
        np.testing.assert_array_equal(read_label(folder / "answer.nii.gz").array, read_label(path).array)
        for files in ([("FLAIR", flair)], [("FLAIR", flair), ("T2", t1)], [("FLAIR", flair), ("T1 w", t1), ("T2", t1)]):
            answer = client.post("/segment", files=files)
            assert (answer.status_code, "FLAIR, T1 w" in answer.json()["detail"]) == (422, True)
        one = client.post("/segment", content=flair)
        assert one.status_code == 422
        assert "1 channels" in one.json()["detail"]
        assert "FLAIR, T1 w" in one.json()["detail"]
        content = client.get("/openapi.json").json()["paths"]["/segment"]["post"]["requestBody"]["content"]
    assert list(content["multipart/form-data"]["schema"]["properties"]) == ["FLAIR", "T1 w"]


def test_what_the_folds_say_is_kept_in_the_services_own_folder(
    folder: Path, model: LoadedModel, tmp_path: Path, monkeypatch
) -> None:
    """Images and all that is made of them: nothing lies beside it, and nothing is left."""
    content, seen, original = put(folder, "own.nii.gz", 1), [], LoadedModel.segment_volume
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def look(self: LoadedModel, volume, probabilities, scratch):
        seen.extend((scratch, *tmp_path.rglob("*")))
        return original(self, volume, probabilities, scratch)

    monkeypatch.setattr(LoadedModel, "segment_volume", look)
    with served(model) as client:
        assert client.post("/segment", content=content).status_code == 200
        scratch, own, *inside = seen
        assert scratch.parent == own
        assert own.name.startswith("autoseg_service_")
        assert all(path.is_relative_to(own) for path in inside)
        assert [path.name for path in own.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 503), (errno.EIO, 500)])
def test_a_full_disk_is_no_fault_of_the_program(folder: Path, model: LoadedModel, monkeypatch, number, status) -> None:
    """Wherever it is noticed: here while the image arrives."""
    content = put(folder, "full.nii.gz", 1)

    async def fail(*_: object) -> None:
        raise OSError(number, "what the system says")

    with served(model) as client:
        with monkeypatch.context() as patch:
            patch.setattr(app_module, "_receive", fail)
            assert client.post("/segment", content=content).status_code == status
        assert client.post("/segment", content=content).status_code == 200


def test_who_stops_in_the_middle_of_an_upload_holds_no_seat_and_no_end_up(folder: Path, model: LoadedModel) -> None:
    content = put(folder, "slow.nii.gz", 1)
    head = f"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with running(model, Limits(upload_seconds=0.5)) as (_, client):
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=30) as slow, socket.create_connection(address) as leaving:
            slow.sendall(head + content[:50])
            leaving.sendall(head + content[:50])
            until_seated(client, 2)
            leaving.close()
            assert slow.recv(64).startswith(b"HTTP/1.1 408")
            until_seated(client, 0)
    begun = time.monotonic()
    with running(model) as (server, client):
        address = (client.base_url.host, client.base_url.port)
        with socket.create_connection(address, timeout=30) as slow:
            slow.sendall(head + content[:50])
            until_seated(client, 1)
            server.should_exit = True
            assert slow.recv(64).startswith(b"HTTP/1.1 503")
    assert time.monotonic() - begun < 25
