"""URLs: files of web servers, fetched however often the connection breaks."""

import errno
import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

TIMEOUT_SECONDS = 30  # without a byte
ATTEMPTS = 6  # one after another without a byte more than before
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0  # between them; twice as long each time
MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 20
KEPT_IN_URLS = "%/:=&?~#+!$,;'@()*[]"  # the rest, such as a blank, is written as %20
WORTH_TRYING_AGAIN = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")
Stamp = list[int | str]


class UrlError(OSError):
    """The server can't be reached; `filename` is the URL, `strerror` has the cure."""

    number = errno.EIO

    def __init__(self, message: str, url: str):
        super().__init__(self.number, message, show_url(url))

    def __reduce__(self):
        return type(self), (self.strerror, self.filename)


class UrlFileError(UrlError, FileNotFoundError):
    """This one file can't be had: the server answers, and does not give it."""

    number = errno.ENOENT


def show_url(url: str) -> str:
    """The URL without what may be secret: the signature in its query."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


def stamp_url(url: str) -> Stamp:
    """Size, and ETag or date; where the server gives none of these, something new each time."""

    def ask() -> Stamp:
        with _open(url, {"Range": "bytes=0-0"}) as answer:  # signed URLs are for GET, not HEAD
            return _read_head(answer).stamp

    return _persist(url, ask)


def read_url(url: str) -> bytes:
    """The content of a small file."""
    content = BytesIO()
    _download(url, content)
    return content.getvalue()


def download_url(url: str, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> Stamp:
    """Writes the content to `path`, all of one version, whose stamp is returned.

    A connection that breaks is taken up again where it broke, if the server can do that.
    `on_bytes` is called often, and what it raises ends the download. Otherwise raises
    UrlFileError where the server refuses the file, UrlError where it can't be reached.
    """
    with open(path, "wb") as file:
        return _download(url, file, on_bytes)


@dataclass(frozen=True)
class _Head:
    start: int  # of the bytes that come
    size_bytes: int | None  # of the whole file
    version: str  # differs for other bytes; empty where the server has nothing to tell them apart
    weak_version: str  # differs for most other bytes

    @property
    def stamp(self) -> Stamp:
        version = self.version or self.weak_version or str(time.time_ns())
        return [self.size_bytes or 0, version]


class _Broken(Exception):
    """Worth trying again."""

    def __init__(self, problem: str, wait_seconds: float = 0):
        super().__init__(problem)
        self.wait_seconds = wait_seconds


def _download(url: str, file: BinaryIO, on_bytes: Callable[[int], None] = lambda _: None) -> Stamp:
    version = ""

    def go_on() -> Stamp:
        nonlocal version
        start = file.tell() if version else 0
        headers = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
        with _open(url, headers) as answer:
            head = _read_head(answer)
            if head.start and (head.start, head.version) != (start, version):
                version = ""  # the next attempt begins anew
                raise _Broken("the file changed while it was read")
            file.seek(head.start)
            file.truncate()
            version = head.version
            while block := answer.read1(BLOCK_BYTES):
                file.write(block)
                on_bytes(len(block))
            if head.size_bytes not in (None, file.tell()):
                raise _Broken("the connection broke")
            return head.stamp

    return _persist(url, go_on, file.tell, on_bytes)


def _persist(
    url: str,
    attempt: Callable[[], T],
    progress: Callable[[], int] = lambda: 0,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> T:
    """What `attempt` returns, once it does; gives up after ATTEMPTS without progress."""
    from http.client import HTTPException

    furthest = failures = 0
    while True:
        wait_seconds = 0.0
        try:
            return attempt()
        except _Broken as error:
            problem, wait_seconds = str(error), error.wait_seconds
        except (HTTPException, ConnectionError, TimeoutError) as error:
            problem = f"the connection broke: {error or type(error).__name__}"
        failures = 0 if progress() > furthest else failures + 1
        furthest = max(furthest, progress())
        if failures == ATTEMPTS:
            raise UrlError(f"can't be read ({problem}): check the network, and run again", url)
        wait_seconds = max(wait_seconds, FIRST_WAIT_SECONDS * 2**failures)
        end = time.monotonic() + min(wait_seconds, LONGEST_WAIT_SECONDS)
        while (left_seconds := end - time.monotonic()) > 0:
            on_bytes(0)  # which may end it
            time.sleep(min(left_seconds, 1))


def _open(url: str, headers: dict[str, str]):
    """The answer of the server, its content still to be read."""
    import ssl
    from http.client import InvalidURL
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    try:
        request = Request(quote(url, safe=KEPT_IN_URLS), headers=headers)
        return _opener().open(request, timeout=TIMEOUT_SECONDS)
    except InvalidURL as error:
        raise UrlFileError(f"is no URL ({error}): correct or remove it", url) from error
    except HTTPError as error:
        with error:
            if error.code == 416 and headers.get("Range") == "bytes=0-0":
                return _open(url, {})  # an empty file has no first byte
            if error.code in WORTH_TRYING_AGAIN:
                asked = error.headers.get("Retry-After", "")
                problem = f"the server answers {error.code} {error.reason}"
                raise _Broken(problem, float(asked) if asked.isdigit() else 0) from error
            cure = "correct or remove it" if error.code in (404, 410) else "get a URL that is valid"
            message = f"the server answers {error.code} {error.reason}: {cure}"
            raise UrlFileError(" ".join(message.split()), url) from error
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            message = f"has no trusted certificate ({error.reason.verify_message})"
            raise UrlFileError(f"{message}: set SSL_CERT_FILE, or leave it out", url) from error
        if not isinstance(error.reason, OSError):  # a redirection to ftp:// or file://
            raise UrlFileError(f"is not to be read: {error.reason}", url) from error
        raise _Broken(str(error.reason)) from error


@functools.cache
def _opener():
    """Opens http and https alone, by the proxies of the environment, with few redirections."""
    import urllib.request as request

    opener = request.OpenerDirector()
    redirections = request.HTTPRedirectHandler()
    redirections.max_redirections = redirections.max_repeats = MAX_REDIRECTS
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        redirections,
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "ad-game-classifier"), ("Accept-Encoding", "identity")]
    return opener


def _read_head(answer) -> _Head:
    etag = answer.headers.get("ETag", "")
    # A weak ETag may stand for other bytes too, so a file can't be put together by it.
    version = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found:
            raise _Broken("the server answers with a part and does not say which")
        size = None if found[2] == "*" else int(found[2])
        return _Head(int(found[1]), size, version, etag)
    length = answer.headers.get("Content-Length", "")
    return _Head(0, int(length) if length.isdigit() else None, version, etag)
