"""The body of a request in a file in, the response with its segmentation out, or a refusal that says why not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from autoseg.api import LoadedModel
from autoseg.devices import is_out_of_memory
from autoseg.errors import AutosegError, DataError, ResourceError
from autoseg.images.reading import expected_bytes, read_image
from autoseg.images.writing import write_label
from autoseg.serving.multipart import boundary_of, channel_files

NIFTI = "application/gzip"

_REASONS = {
    400: "The request called the service by a name that is not its own; plain text.",
    401: "The token is missing or wrong.",
    403: "The request came from a page in a browser.",
    408: "The image did not arrive in time.",
    413: "The image is larger than this service takes.",
    422: "The file is no image that the model can segment; `detail` says why.",
    429: "All seats are taken; come again after `Retry-After` seconds.",
    500: "The segmentation failed; `detail` names the kind of error.",
    503: "It waited too long (come again after `Retry-After` seconds), the service ends, or memory or disk are short.",
}
_DETAIL = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}

_MODEL, _LOOK = "X-Autoseg-Model", "X-Autoseg-Look-At-It"
SEGMENTED: dict[str, Any] = {
    "description": "The segmentation, .nii.gz on the image's grid.",
    "content": {NIFTI: {"schema": {"type": "string", "format": "binary"}}},
    "headers": {
        _MODEL: {"description": "Digest of the model.", "schema": {"type": "string"}},
        _LOOK: {
            "description": "Whether a person should; only of models that judge.",
            "schema": {"enum": ["yes", "no"]},
        },
    },
}
"""The answer to an image as OpenAPI describes it."""


class Refused(Exception):  # noqa: N818 - an answer, no fault of the program
    """An answer without a segmentation."""

    def __init__(self, status: int, detail: str, retry_seconds: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_seconds = status, detail, retry_seconds


def no_room() -> Refused:
    """Neither the image nor the program is at fault."""
    return Refused(503, "The image does not fit into the memory or the disk of this machine.")


def refusal(refused: Refused) -> Response:
    """What is sent to whoever gets no segmentation."""
    headers = {} if refused.retry_seconds is None else {"Retry-After": str(refused.retry_seconds)}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": refused.detail}, status_code=refused.status, headers=headers)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route as OpenAPI describes them; all of them where none is named."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses or _REASONS:
        found[status] = {"description": _REASONS[status]}
        if status != 400:  # it comes from the framework
            found[status]["content"] = {"application/json": {"schema": _DETAIL}}
        if status in (429, 503):
            found[status]["headers"] = _RETRY
    return found


def body_of(channel_names: Sequence[str]) -> dict[str, Any]:
    """The body of `POST /segment` as OpenAPI describes it: one file, or one a channel."""
    file = {"type": "string", "format": "binary"}
    parts = {"type": "object", "required": list(dict.fromkeys(channel_names))}
    properties = {
        name: file if channel_names.count(name) == 1 else {"type": "array", "items": file} for name in channel_names
    }
    return {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": file},
            "multipart/form-data": {"schema": {**parts, "properties": properties}},
        },
    }


@dataclass(frozen=True)
class Received:
    """An image as it was sent."""

    body: Path
    """In a folder of its own, which everything that is made of it is written to."""
    content_type: str


def segmented(model: LoadedModel, image: Received, most_voxel_bytes: int) -> Response:
    """The segmentation of an image, as `predict` would write it.

    Args:
        model: that segments.
        image: NIfTI, or one such file a channel as `multipart` takes them apart.
        most_voxel_bytes: of an image unpacked, as its headers tell.

    Raises:
        Refused: there is none; everything else is a fault of the program.
    """
    folder = image.body.parent
    output = folder / "segmentation.nii.gz"
    try:
        boundary = boundary_of(image.content_type)
        files = [image.body] if boundary is None else channel_files(image.body, boundary, model.channel_names)
        if (num_bytes := sum(expected_bytes(file) for file in files)) > most_voxel_bytes:
            raise Refused(413, f"The image unpacks to {num_bytes} bytes; {most_voxel_bytes} are taken.")
        volume = read_image(files)
        found = model.segment_volume(volume, False, folder)
        write_label(output, found.labels, volume.geometry, like=files[0])
    except DataError as error:
        raise Refused(422, str(error).replace(f"{folder}/", "")) from error
    except (ResourceError, MemoryError, RuntimeError) as error:
        if not isinstance(error, ResourceError) and not is_out_of_memory(error):
            raise
        raise no_room() from error
    except AutosegError as error:
        raise Refused(500, f"The segmentation failed: {type(error).__name__}.") from error
    headers = {_MODEL: model.predictor.digest}
    if found.judgement is not None:
        headers[_LOOK] = "yes" if found.judgement.reasons else "no"
    return Response(output.read_bytes(), media_type=NIFTI, headers=headers)
