"""Front of the made AWS: its doors, calls by their names, answers as each service words them."""

import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from werkzeug.serving import make_server

from tests.ports import keep_port
from tests.s3_server import QuietHandler

SCHEDULES = {"POST": "CreateSchedule", "PUT": "UpdateSchedule", "DELETE": "DeleteSchedule"}
OBJECTS = {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
XML = "text/xml"
JSON = "application/x-amz-json-1.1"


@dataclass(frozen=True)
class Call:
    """A request as a person would name it."""

    side: str  # laptop or instance
    service: str
    name: str  # for example RunInstances, PutObject
    detail: str  # bucket/key, or the parameters
    parameters: dict = field(hash=False, compare=False, default_factory=dict)


class Door:
    """An address of the world, which can be shut and opened again."""

    def __init__(self, answer: Callable, side: str):
        self._app = lambda environ, start_response: answer(side, environ, start_response)
        self.is_shut = True
        self._place = keep_port()
        self._port = self._place.getsockname()[1]
        self.reopen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def reopen(self) -> None:
        self._server = make_server(
            "127.0.0.1", self._port, self._app, threaded=True, request_handler=QuietHandler
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        self.is_shut = False

    def shut(self) -> None:
        self.is_shut = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def close(self) -> None:
        if not self.is_shut:
            self.shut()
        self._place.close()


@dataclass
class Answer:
    """A whole answer, before anything of it is sent."""

    status: str
    content: bytes
    headers: list[tuple[str, str]]

    @classmethod
    def of(cls, app: Callable, environ: dict) -> "Answer":
        begun = []
        content = b"".join(
            app(environ, lambda status, headers, *_: begun.append((status, headers)))
        )
        return cls(begun[0][0], content, begun[0][1])

    def send(self, start_response: Callable) -> list[bytes]:
        start_response(self.status, self.headers)
        return [self.content]


def name_call(side: str, environ: dict, body: bytes) -> Call:
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    service = scope[1] if scope else "s3"
    path, method = unquote(environ["PATH_INFO"]), environ["REQUEST_METHOD"]
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        parameters = json.loads(body or b"{}")
        return Call(side, service, target.rpartition(".")[2], json.dumps(parameters), parameters)
    if service == "scheduler":
        name = SCHEDULES.get(method, "GetSchedule" if path.count("/") > 1 else "ListSchedules")
        return Call(side, service, name, path, json.loads(body or b"{}"))
    if service != "s3":
        form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        return Call(side, service, form.pop("Action", "?"), body.decode(), form)
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    key = path.strip("/").partition("/")[2]
    if "uploads" in query or "uploadId" in query:
        names = {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        name = "CreateMultipartUpload" if "uploads" in query else names.get(method, "UploadPart")
    elif key:
        name = OBJECTS.get(method, method)
    else:
        names = {"GET": "ListObjectsV2", "HEAD": "HeadBucket", "POST": "DeleteObjects"}
        name = "GetBucketLocation" if "location" in query else names.get(method, f"{method} bucket")
    detail = f"{path.strip('/')}?{environ.get('QUERY_STRING', '')}"
    return Call(side, service, name, detail)


def cut(environ: dict) -> None:
    """Ends the connection as a broken network does."""
    connection = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def refuse(start_response: Callable, call: Call, how: str, message: str) -> list[bytes]:
    throttled = {"s3": "SlowDown", "ec2": "RequestLimitExceeded"}
    denied = {"s3": "AccessDenied", "ec2": "UnauthorizedOperation", "iam": "AccessDenied"}
    codes = {
        "busy": "ServiceUnavailable",
        "throttled": throttled.get(call.service, "ThrottlingException"),
        "denied": denied.get(call.service, "AccessDeniedException"),
    }
    return error(call, codes.get(how, how), message).send(start_response)


def error(call: Call, code: str, message: str) -> Answer:
    """As the service would word it; capacity is missing with status 500, as on AWS."""
    status = 400
    if code in ("SlowDown", "ServiceUnavailable"):
        status = 503
    elif "Capacity" in code or code == "InternalError":
        status = 500
    elif code.startswith(("AccessDenied", "UnauthorizedOperation")):
        status = 403
    elif code.startswith("NoSuch") or code.endswith("NotFound"):
        status = 404
    message = escape(message)
    if call.service in ("ssm", "pricing", "servicequotas", "scheduler"):
        answer = json_answer({"__type": code, "message": message, "Message": message})
        answer.headers.append(("x-amzn-errortype", code))
    elif call.service == "ec2":
        error = f"<Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        answer = _content(f"<Response>{error}<RequestID>r</RequestID></Response>", XML)
    elif call.service == "s3":
        error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        answer = _content(error, "application/xml")
    else:
        error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        answer = _content(f"<ErrorResponse>{error}</ErrorResponse>", XML)
    answer.status = f"{status} {code}"
    return answer


def xml(name: str, content: str) -> Answer:
    space = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return _content(f'<{name}Response xmlns="{space}">{content}</{name}Response>', XML)


def json_answer(value: dict) -> Answer:
    return _content(json.dumps(value), JSON)


def _content(text: str, kind: str) -> Answer:
    content = text.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(content)))]
    return Answer("200 OK", content, headers)
