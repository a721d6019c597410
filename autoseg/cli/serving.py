"""The command that serves a model over HTTP."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError

_TOKEN = "AUTOSEG_TOKEN"


def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A packed model (zip), or a model folder.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the token that callers must send; or the variable {_TOKEN}.")
    ] = None,
    seats: Annotated[int, typer.Option(min=1, help="Requests at a time; more are told to come again (429).")] = 16,
    max_mib: Annotated[int, typer.Option(min=1, help="Largest image as it is sent.")] = 512,
    fast: Annotated[bool, typer.Option("--fast", help="No mirroring, fewer tiles, as for `predict`.")] = False,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
) -> None:
    """Serve a model over HTTP: POST an image to /segment, get its segmentation; the model stays loaded."""
    try:
        from autoseg.serving.app import LOOPBACK, Limits, make_app
        from autoseg.serving.server import Server, listen
    except ImportError as error:
        raise UsageError(f"{error.name} is missing. Install it: pip install 'autoseg-medical[serve]'") from error
    from autoseg.api import load_model

    o.start(None, quiet)
    token = read_token(token_file)
    if host not in LOOPBACK and token is None:
        raise UsageError(f"--host {host} lets other machines in: set a token with --token-file or {_TOKEN}.")
    loaded = load_model(model, device=device, fast=fast)
    limits = Limits(num_seats=seats, most_bytes=max_mib << 20)
    app = make_app(loaded, limits, token, LOOPBACK if host in LOOPBACK else ("*",))
    listening = listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    typer.echo(f"Serving {model} on {url} until interrupted.")
    typer.echo(f"Next: {_example(loaded.channel_names, url, token is not None)}")
    with suppress(KeyboardInterrupt):  # which the server raises once more when it has ended
        Server(app).run([listening])


def _example(channel_names: Sequence[str], url: str, guarded: bool) -> str:
    """A call of the service in the shell."""
    one = len(channel_names) == 1
    image = (
        "--data-binary @SCAN.nii.gz"
        if one
        else " ".join(f"-F {shlex.quote(name)}=@{number}.nii.gz" for number, name in enumerate(channel_names))
    )
    authorization = f' -H "Authorization: Bearer ${_TOKEN}"' if guarded else ""
    return f"curl -f {image}{authorization} -o SEGMENTATION.nii.gz {url}/segment"


def read_token(file: Path | None) -> str | None:
    """The token in a file, else in the environment; None: none is set.

    Raises:
        UsageError: the file cannot be read, or it holds fewer than 16 characters.
    """
    if file is None:
        token = os.environ.get(_TOKEN, "").strip() or None
    else:
        try:
            token = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {file} cannot be read.") from error
    if token is not None and (len(token) < 16 or not token.isascii()):
        raise UsageError("The token needs at least 16 ASCII characters: openssl rand -hex 32")
    return token


COMMANDS = (serve,)
