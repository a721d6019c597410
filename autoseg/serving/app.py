"""A loaded model in, an HTTP service out: POST an image, get its segmentation.

Images come and go as NIfTI in the body, in a private folder that is removed with the answer. Nothing of them is logged:
neither names nor sizes nor what a faulty file said. The routes describe themselves in `/openapi.json`.
"""

import asyncio
import hmac
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from autoseg import console
from autoseg.api import LoadedModel
from autoseg.serving.folders import service_folder
from autoseg.serving.job_queue import ClientGone, JobQueue, QueueFull, QueueTimeout, ShuttingDown
from autoseg.serving.responses import SEGMENTED, Received, Refused, body_of, no_room, refusal, refusals, segmented
from autoseg.storage.atomic import is_full_disk
from autoseg.version import __version__

LOOPBACK = ("127.0.0.1", "localhost")

_HUNG_UP = 499  # in our own counts alone, as others count it; nobody is there to be told


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


def make_app(
    model: LoadedModel, limits: Limits, token: str | None = None, hosts: tuple[str, ...] = LOOPBACK
) -> FastAPI:
    """The service of a model; its `state.jobs` must be stopped before the server ends, as `server.Server` does.

    Args:
        model: stays loaded.
        limits: see there.
        token: without it in `Authorization: Bearer TOKEN` nothing but `/health` and the
            service's description answers; None: everybody is served.
        hosts: names under which it may be called, so that no web page reaches it by a name of its own.
    """
    jobs = JobQueue(limits.num_seats, limits.waiting_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with service_folder(Path(tempfile.gettempdir())) as app.state.folder:
            yield
            jobs.close()

    app = FastAPI(title="autoseg", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.jobs = jobs
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    def guarded(request: Request, answer: Callable[[], Response]) -> Response:
        try:
            check_caller(request, token)
        except Refused as refused:
            return refusal(refused)
        return answer()

    async def segment(request: Request) -> Response:
        """Segment an image: NIfTI (.nii or .nii.gz, several channels along the fourth axis) in, .nii.gz out.

        Or `multipart/form-data` with one such file a channel, each part named like its channel.
        """
        return await _answered(request, model, limits, token)

    def health() -> JSONResponse:
        """Whether images are taken, and how many seats are; 503: the service ends."""
        status = "ending" if jobs.is_stopped else "ready"
        content = {"status": status, "seats_taken": jobs.num_seated, "seats": jobs.num_seats}
        return JSONResponse(content, status_code=503 if jobs.is_stopped else 200)

    def describe(request: Request) -> Response:
        """What the model needs and segments."""
        content = {
            "autoseg": __version__,
            "digest": model.predictor.digest,
            "channels": list(model.channel_names),
            "labels": model.label_values,
            "configurations": [one.configuration for one in model.predictor.models],
        }
        return guarded(request, lambda: JSONResponse(content))

    def metrics(request: Request) -> Response:
        """Counts for monitoring, as Prometheus text."""
        return guarded(request, lambda: PlainTextResponse(jobs.metrics(), media_type="text/plain; version=0.0.4"))

    # `check_caller` guards; this only says in the description that a token is needed.
    needs_token = [] if token is None else [Depends(HTTPBearer(auto_error=False))]
    app.add_api_route(
        "/segment",
        segment,
        methods=["POST"],
        response_class=Response,
        responses={200: SEGMENTED, **refusals()},
        openapi_extra={"requestBody": body_of(model.channel_names)},
        dependencies=needs_token,
    )
    states = refusals(400)
    states[503] = {"description": "The service ends.", "content": {"application/json": {}}}
    app.add_api_route("/health", health, methods=["GET"], responses=states)
    told = refusals(400, 401, 403)
    app.add_api_route("/model", describe, methods=["GET"], responses=told, dependencies=needs_token)
    app.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        response_class=PlainTextResponse,
        responses=told,
        dependencies=needs_token,
    )
    return app


def check_caller(request: Request, token: str | None) -> None:
    """Raise Refused where a request comes from a page in a browser, or without the token."""
    if "origin" in request.headers:
        raise Refused(403, "Pages in browsers are not served.")
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    # The token is compared first and in constant time, so that no answer comes sooner for a better guess.
    if token is not None and not (hmac.compare_digest(given.encode(), token.encode()) and kind.lower() == "bearer"):
        raise Refused(401, "The token is missing or wrong; send Authorization: Bearer TOKEN.")


async def _answered(request: Request, model: LoadedModel, limits: Limits, token: str | None) -> Response:
    """The answer to one image, counted and told in one line that says nothing of it."""
    begun, received = time.monotonic(), [0]
    jobs: JobQueue = request.app.state.jobs
    try:
        response = await _asked(request, model, jobs, limits, token, received)
    except QueueFull:
        response = refusal(Refused(429, "All seats are taken.", jobs.retry_seconds()))
    except QueueTimeout:
        response = refusal(Refused(503, "It waited too long for its turn.", jobs.retry_seconds()))
    except ShuttingDown:
        response = refusal(Refused(503, "The service ends; the image was not segmented."))
    except (ClientGone, ClientDisconnect):
        response = Response(status_code=_HUNG_UP)
    except Refused as refused:
        response = refusal(refused)
    except Exception as error:  # whatever fails, the service goes on; the kind of error holds nothing of the image
        console.warn(f"a request failed: {type(error).__name__}")
        failed = Refused(500, f"The segmentation failed: {type(error).__name__}.")
        response = refusal(no_room() if is_full_disk(error) else failed)
    jobs.count(response.status_code, received[0])
    console.say(f"{response.status_code} after {time.monotonic() - begun:.2f} s")
    return response


async def _asked(
    request: Request, model: LoadedModel, jobs: JobQueue, limits: Limits, token: str | None, received: list[int]
) -> Response:
    check_caller(request, token)
    with jobs.seat(), tempfile.TemporaryDirectory(dir=request.app.state.folder) as folder:
        image = Received(Path(folder) / "image.nii.gz", request.headers.get("content-type", ""))
        await _receive(request, image.body, jobs, limits, received)
        hung_up = asyncio.ensure_future(_hung_up(request))
        try:
            return await jobs.do(partial(segmented, model, image, limits.most_voxel_bytes), hung_up)
        finally:
            hung_up.cancel()


async def _hung_up(request: Request) -> None:
    """Return when the caller has left; its body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _receive(request: Request, image: Path, jobs: JobQueue, limits: Limits, received: list[int]) -> None:
    """Write the body to `image` and count its bytes in `received`, as far as it may go."""
    too_large = Refused(413, f"The body is larger than {limits.most_bytes} bytes.")
    told = request.headers.get("content-length", "0")
    if told.isdigit() and int(told) > limits.most_bytes:
        raise too_large
    try:
        async with asyncio.timeout(limits.upload_seconds) as clock:
            with jobs.upload(clock), image.open("wb") as target:
                async for chunk in request.stream():
                    received[0] += len(chunk)
                    if received[0] > limits.most_bytes:
                        raise too_large
                    target.write(chunk)
    except TimeoutError as error:
        if jobs.is_stopped:
            raise ShuttingDown from error
        raise Refused(408, f"The image did not arrive within {limits.upload_seconds:g} s.") from error
