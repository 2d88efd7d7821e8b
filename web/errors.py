"""Errors as answers: a status, a kind that a program can ask for, and one line with the cure."""

import errno
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from utils.errors import UserError, describe_os_error
from utils.media import MediaError

KINDS = {
    400: "bad_request",
    401: "token",
    403: "forbidden",
    404: "not_found",
    405: "method",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    415: "no_video",
    422: "bad_request",
    429: "too_many",
    507: "disk_full",
}
INSUFFICIENT_STORAGE = 507
LOG = logging.getLogger("web")


class ApiError(UserError):
    """What a request is answered with where it can't be done; `kind` is for programs."""

    status = 400

    def __init__(self, message: str, *, kind: str | None = None, status: int | None = None):
        super().__init__(message)
        self.status = status or self.status
        self.kind = kind or KINDS.get(self.status, "bad_request")


class NotFound(ApiError):
    """No recording, job, run or version of that name."""

    status = 404


class Conflict(ApiError):
    """It can't be done as things are now; the kind says why."""

    status = 409


class TooMany(ApiError):
    """A bound on what is under way at a time."""

    status = 429


def answer(status: int, message: str, kind: str | None = None) -> JSONResponse:
    """The JSON of every refusal: `{"error": one line, "kind": word}`."""
    line = " ".join(message.split())
    return JSONResponse({"error": line, "kind": kind or KINDS.get(status, "error")}, status)


def add_handlers(app: FastAPI) -> None:
    """Lets the app answer mistakes of whoever asks with one line, and log what is our own."""
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(MediaError, lambda _, error: answer(415, str(error)))
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(Exception, _bug)


def _user_error(_: Request, error: UserError) -> JSONResponse:
    """What the libraries below refuse; some of it says its own status and kind."""
    kind = getattr(error, "kind", "refused")
    return answer(getattr(error, "status", 409), str(error), kind)


def _validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
    """The first thing that is wrong, with its place: `body.segments.0.label: Field required`."""
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"])
    more = f" ({len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return answer(422, f"{place}: {found['msg']}{more}: see /docs for what is accepted")


def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    if isinstance(error.detail, dict):
        return answer(error.status_code, error.detail["error"], error.detail.get("kind"))
    message = {
        404: f"there is nothing at {request.url.path}: see /docs for what there is",
        405: f"{request.method} is not for {request.url.path}: see /docs for what is",
    }.get(error.status_code, str(error.detail))
    response = answer(error.status_code, message)
    response.headers.update(error.headers or {})
    return response


def _os_error(request: Request, error: OSError) -> JSONResponse:
    """The disk's or a permission's fault, which a person can mend; anything else is ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        line = "the disk of the server is full: free some space there and try again"
        return answer(INSUFFICIENT_STORAGE, line)
    if isinstance(error, FileNotFoundError):
        return answer(404, "the file went away meanwhile: load the page again")
    if describe_os_error(error) and isinstance(error, PermissionError):
        return answer(409, describe_os_error(error), "no_permission")
    return _bug(request, error)


def _bug(request: Request, error: Exception) -> JSONResponse:
    # Without the query, in which a token may stand.
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(500, "this is a bug: what the server printed says more", "bug")
