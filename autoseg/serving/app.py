"""A loaded model in, an HTTP service out: POST an image, get its segmentation.

Images come and go as NIfTI in the body, in a private folder that is removed with the answer. Nothing of them is logged:
neither names nor sizes nor what a faulty file said. The routes describe themselves in `/openapi.json`.
"""

import asyncio
import hmac
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from autoseg import console
from autoseg.api import LoadedModel
from autoseg.devices import is_full_memory
from autoseg.errors import AutosegError, DataError, ResourceError
from autoseg.images.reading import expected_bytes, read_image
from autoseg.images.writing import write_label
from autoseg.serving.desk import Desk, Full, TooLate
from autoseg.version import __version__

LOOPBACK = ("127.0.0.1", "localhost")

_NIFTI = "application/gzip"
_BODY = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The token is missing or wrong."},
    403: {"description": "The request came from a page in a browser."},
    408: {"description": "The image did not arrive in time."},
    413: {"description": "The image is larger than this service takes."},
    422: {"description": "The file is no image that the model can segment; `detail` says why."},
    429: {"description": "All seats are taken; come again after `Retry-After` seconds."},
    503: {"description": "It waited too long, the service ends, or memory is short."},
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the service takes."""

    num_seats: int = 16
    """Requests at a time, the one being worked on included."""
    most_bytes: int = 1 << 29
    """Of a body, as it is sent."""
    most_voxel_bytes: int = 1 << 32
    """Of an image unpacked, as its header tells."""
    upload_seconds: float = 120.0
    """For sending an image."""
    waiting_seconds: float = 600.0
    """From the arrival of an image until the networks begin with it."""


class Refused(Exception):  # noqa: N818 - an answer, no fault of the program
    """An answer without a segmentation."""

    def __init__(self, status: int, detail: str, retry_seconds: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_seconds = status, detail, retry_seconds


def make_app(
    model: LoadedModel, limits: Limits, token: str | None = None, hosts: tuple[str, ...] = LOOPBACK
) -> FastAPI:
    """The service of a model.

    Args:
        model: stays loaded.
        limits: see there.
        token: without it in `Authorization: Bearer TOKEN` nothing but `/health` and the
            service's description answers; None: everybody is served.
        hosts: names under which it may be called, so that no web page reaches it by a name of its own.
    """
    desk = Desk(limits.num_seats, limits.waiting_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(title="autoseg", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    def check(request: Request) -> None:
        if "origin" in request.headers:
            raise Refused(403, "Pages in browsers are not served.")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            raise Refused(401, "The token is missing or wrong; send Authorization: Bearer TOKEN.")

    async def segment(request: Request) -> Response:
        """Segment an image: NIfTI (.nii or .nii.gz, several channels along the fourth axis) in, .nii.gz out."""
        return await _answered(request, model, desk, limits, check)

    def health() -> dict[str, object]:
        """Whether the model is loaded, and how many seats are taken."""
        return {"status": "ready", "seats_taken": desk.num_seated, "seats": desk.num_seats}

    def describe(request: Request) -> Response:
        """What the model needs and segments."""
        try:
            check(request)
        except Refused as refusal:
            return _refusal(refusal)
        return JSONResponse(
            {
                "autoseg": __version__,
                "digest": model.predictor.digest,
                "channels": list(model.channel_names),
                "labels": model.label_values,
                "configurations": [one.configuration for one in model.predictor.models],
            }
        )

    def metrics(request: Request) -> Response:
        """Counts for monitoring, as Prometheus text."""
        try:
            check(request)
        except Refused as refusal:
            return _refusal(refusal)
        return PlainTextResponse(desk.metrics(), media_type="text/plain; version=0.0.4")

    answers = {
        200: {"description": "The segmentation, .nii.gz on the image's grid.", "content": {_NIFTI: {}}},
        **_REFUSALS,
    }
    extra = {"requestBody": _BODY}
    app.add_api_route(
        "/segment", segment, methods=["POST"], response_class=Response, responses=answers, openapi_extra=extra
    )
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/model", describe, methods=["GET"], responses={401: _REFUSALS[401]})
    app.add_api_route("/metrics", metrics, methods=["GET"], response_class=PlainTextResponse)
    return app


async def _answered(request: Request, model: LoadedModel, desk: Desk, limits: Limits, check: Any) -> Response:
    """The answer to one image, counted and told in one line that says nothing of it."""
    begun, received = time.monotonic(), [0]
    try:
        check(request)
        with desk.seat(), tempfile.TemporaryDirectory(prefix="autoseg_serve_") as folder:
            image = Path(folder) / "image.nii.gz"
            await _receive(request, image, limits, received)
            response = await desk.do(partial(_segmented, model, image, limits))
    except Full:
        response = _refusal(Refused(429, "All seats are taken.", desk.retry_seconds()))
    except TooLate:
        response = _refusal(Refused(503, "It waited too long, or the service ends.", desk.retry_seconds()))
    except Refused as refusal:
        response = _refusal(refusal)
    except Exception as error:  # whatever fails, the service goes on; the kind of error holds nothing of the image
        console.warn(f"a request failed: {type(error).__name__}")
        response = _refusal(Refused(500, f"The segmentation failed: {type(error).__name__}."))
    desk.count(response.status_code, received[0])
    console.say(f"{response.status_code} after {time.monotonic() - begun:.2f} s")
    return response


async def _receive(request: Request, image: Path, limits: Limits, received: list[int]) -> None:
    """Write the body to `image` and count its bytes in `received`, as far as it may go."""
    too_large = Refused(413, f"The body is larger than {limits.most_bytes} bytes.")
    told = request.headers.get("content-length", "0")
    if told.isdigit() and int(told) > limits.most_bytes:
        raise too_large
    try:
        async with asyncio.timeout(limits.upload_seconds):
            with image.open("wb") as target:
                async for chunk in request.stream():
                    received[0] += len(chunk)
                    if received[0] > limits.most_bytes:
                        raise too_large
                    target.write(chunk)
    except TimeoutError as error:
        raise Refused(408, f"The image did not arrive within {limits.upload_seconds:g} s.") from error


def _segmented(model: LoadedModel, image: Path, limits: Limits) -> Response:
    """The segmentation of a file, as `predict` would write it."""
    output = image.with_name("segmentation.nii.gz")
    try:
        if (num_bytes := expected_bytes(image)) > limits.most_voxel_bytes:
            raise Refused(413, f"The image unpacks to {num_bytes} bytes; {limits.most_voxel_bytes} are taken.")
        volume = read_image([image])
        found = model.segment_volume(volume)
        write_label(output, found.labels, volume.geometry, like=image)
    except DataError as error:
        raise Refused(422, str(error).replace(f"{image.parent}/", "")) from error
    except (ResourceError, MemoryError, RuntimeError) as error:
        if not isinstance(error, ResourceError) and not is_full_memory(error):
            raise
        raise Refused(503, "The image does not fit into the memory or the disk of this machine.") from error
    except AutosegError as error:
        raise Refused(500, f"The segmentation failed: {type(error).__name__}.") from error
    headers = {"X-Autoseg-Model": model.predictor.digest}
    if found.judgement is not None:
        headers["X-Autoseg-Look-At-It"] = "yes" if found.judgement.reasons else "no"
    return Response(output.read_bytes(), media_type=_NIFTI, headers=headers)


def _refusal(refusal: Refused) -> Response:
    headers = {} if refusal.retry_seconds is None else {"Retry-After": str(refusal.retry_seconds)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": refusal.detail}, status_code=refusal.status, headers=headers)
