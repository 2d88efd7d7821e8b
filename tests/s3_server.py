"""S3 server: moto over HTTP on loopback, behind a front that loses, delays and spoils answers."""

import contextlib
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO

os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nothing waits for 169.254.169.254

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
Fault = Callable[[str, str], str | tuple | Callable[[], None] | None]


class QuietHandler(WSGIRequestHandler):
    """Keeps its connections, as S3 does, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, *_) -> None:
        pass


class S3Server:
    """A running server. `requests` lists `(method, path)`; `fault` may spoil the next ones.

    `fault(method, path)` returns None, `busy`, `denied`, `cut` (the content ends half way), `slow`
    (it takes twelve seconds), `spoil` (a byte of the content is changed, on its way here or there),
    (status, code) or (status, code, headers) of an error, or a function to call before the request
    is answered, which may return one of these.
    """

    def __init__(self):
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda method, path: None
        self._backend = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=QuietHandler
        )
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any S3 client comes here."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.url}

    @functools.cached_property
    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )

    def new_bucket(self) -> str:
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, **contents: bytes) -> None:
        """Objects by key, put past the front: quickly, and in no list of requests."""
        for key, content in contents.items():
            s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, content)

    def count(self, method: str, part: str = "") -> int:
        """Requests of this method with `part` in their path."""
        return sum(m == method and part in path for m, path in self.requests)

    @contextlib.contextmanager
    def faulty(self, fault: Fault) -> Iterator[None]:
        self.fault = fault
        try:
            yield
        finally:
            self.fault = lambda method, path: None

    def _answer(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        method = environ["REQUEST_METHOD"]
        self.requests.append((method, path))
        fault = self.fault(method, path)
        if callable(fault):
            fault = fault()
        # Always read whole: what is left of a request would be taken for the next one.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault == "busy":
            fault = (503, "SlowDown")
        if fault == "denied":
            fault = (403, "AccessDenied")
        if isinstance(fault, tuple):
            return _refuse(start_response, *fault)
        if fault == "spoil":
            body = _spoilt(body)
        environ["wsgi.input"] = BytesIO(body)
        answer = b"".join(self._backend(environ, start_response))
        if fault == "spoil" and method == "GET":
            return [_spoilt(answer)]
        if fault == "cut":
            return [answer[: len(answer) // 2]]  # fewer than the header says: the connection ends
        return _slowly(answer) if fault == "slow" else [answer]


def one_after(first: int, fault: str | tuple | Callable, method: str, part: str = "") -> Fault:
    """`fault` for one request of this kind, after so many good ones."""
    return some_after(first, 1, fault, method, part)


def some_after(
    first: int, count: int, fault: str | tuple | Callable, method: str, part: str = ""
) -> Fault:
    seen = itertools.count()
    lock = threading.Lock()

    def choose(asked: str, path: str):
        if asked != method or part not in path:
            return None
        with lock:
            return fault if first <= next(seen) < first + count else None

    return choose


def _slowly(content: bytes) -> Iterator[bytes]:
    step = max(1, len(content) // 24)
    for start in range(0, len(content), step):
        time.sleep(0.5)
        yield content[start : start + step]


def _spoilt(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(b ^ 1 for b in content[middle : middle + 1])
        + content[middle + 1 :]
    )


def _refuse(
    start_response: Callable, status: int, code: str, headers: dict[str, str] | None = None
) -> list[bytes]:
    content = f"<Error><Code>{code}</Code><Message>and why</Message></Error>".encode()
    headers = {**(headers or {}), "Content-Type": "application/xml"}
    headers["Content-Length"] = str(len(content))
    start_response(f"{status} {code}", list(headers.items()))
    return [content]
