"""Who may call the service, how it describes itself, and the command that starts it."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra autoseg-medical[serve] is not installed")

from autoseg.api import LoadedModel
from autoseg.cli.main import main
from autoseg.serving.app import Limits, make_app
from autoseg.serving.server import Server
from tests.serving.tools import TOKEN, put, served


def test_a_token_guards_all_but_health(folder: Path, model: LoadedModel) -> None:
    content = put(folder, "guarded.nii.gz", 1)
    with served(model, token=TOKEN) as client:
        assert client.post("/segment", content=content).status_code == 200
        assert client.get("/model").status_code == client.get("/metrics").status_code == 200
        for headers in (
            {"Authorization": "Bearer wrong"},
            {"Authorization": ""},
            {"Authorization": "Bearer \u00e9"},
            {"Authorization": TOKEN},
        ):
            encoded = {name: value.encode("utf-8") for name, value in headers.items()}
            assert client.post("/segment", content=content, headers=encoded).status_code == 401
            assert client.get("/model", headers=encoded).status_code == 401
            assert client.get("/metrics", headers=encoded).status_code == 401
            assert client.get("/health", headers=encoded).status_code == 200


@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_description_says_where_the_token_goes_and_what_comes_back(model: LoadedModel, token: str | None) -> None:
    described = make_app(model, Limits(), token).openapi()
    routes = {f"{verb} {path}": route for path, verbs in described["paths"].items() for verb, route in verbs.items()}
    guarded = {name for name, route in routes.items() if route.get("security") == [{"HTTPBearer": []}]}
    assert guarded == (set() if token is None else {"post /segment", "get /model", "get /metrics"})
    if token is not None:
        assert described["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
    answer = routes["post /segment"]["responses"]["200"]
    assert set(answer["headers"]) == {"X-Autoseg-Model", "X-Autoseg-Look-At-It"}
    assert set(answer["content"]) == {"application/gzip"}


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


def test_the_command_listens_and_says_how_to_call_it(folder: Path, monkeypatch, capsys) -> None:
    listening = []
    monkeypatch.setattr(Server, "run", lambda server, sockets: listening.append((server.config.access_log, *sockets)))
    call = ["serve", str(folder / "model"), "--device", "cpu", "--port"]
    monkeypatch.setenv("AUTOSEG_TOKEN", TOKEN)
    assert main([*call, "0"]) == 0
    ((logs, socket),) = listening
    host, port = socket.getsockname()
    assert (logs, host) == (False, "127.0.0.1")
    example = '--data-binary @SCAN.nii.gz -H "Authorization: Bearer $AUTOSEG_TOKEN" -o SEGMENTATION.nii.gz'
    assert f"Next: curl -f {example} http://127.0.0.1:{port}/segment\n" in capsys.readouterr().out
    assert main([*call, str(port)]) == 2
    assert f"127.0.0.1 port {port}" in capsys.readouterr().err
    socket.close()
