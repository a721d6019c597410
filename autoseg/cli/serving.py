"""The command that serves a model over HTTP."""

from __future__ import annotations

import os
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
        import uvicorn

        from autoseg.serving.app import LOOPBACK, Limits, make_app
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
    typer.echo(f"Serving {model} on http://{host}:{port} until interrupted.")
    typer.echo(f"Next: curl --data-binary @SCAN.nii.gz -o SEGMENTATION.nii.gz http://{host}:{port}/segment")
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )


_SECONDS_TO_END = 30
"""For images that are being segmented when the service is told to stop."""


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
