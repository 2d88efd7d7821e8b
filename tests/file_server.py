"""File server: a web server on loopback that resumes, redirects, and breaks off as it is told."""

import contextlib
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class FileServer:
    """Serves `files` by path. `requests` lists (path, range asked for)."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    redirections: dict[str, str] = field(default_factory=dict)
    answers: list[int] = field(default_factory=list)  # status of the next answers, before all else
    break_after: list[int] = field(default_factory=list)  # bytes, of the next contents
    resumes: bool = True
    etag: str | None = '"1"'
    date: str | None = None
    says_size: bool = True

    def __enter__(self) -> "FileServer":
        answer_to = type("Handler", (_Handler,), {"files": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), answer_to)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    files: FileServer

    def do_GET(self) -> None:
        server, path = self.files, unquote(self.path.partition("?")[0])
        asked = self.headers.get("Range")
        server.requests.append((path, asked))
        if server.answers:
            return self._say(server.answers.pop(0))
        if path in server.redirections:
            return self._say(302, Location=server.redirections[path])
        if path not in server.files:
            return self._say(404)
        content = server.files[path]
        version = self.headers.get("If-Range")
        if asked and server.resumes and version in (None, server.etag, server.date):
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            if int(first) >= len(content):
                return self._say(416)
            part = content[int(first) : int(last) + 1 if last else None]
            span = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            return self._send(206, part, {"Content-Range": span})
        return self._send(200, content, {})

    def _say(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0", "Retry-After": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        server = self.files
        self.send_response(status)
        if server.etag:
            headers["ETag"] = server.etag
        if server.date:
            headers["Last-Modified"] = server.date
        if server.says_size:
            headers["Content-Length"] = str(len(content))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if server.break_after and len(content) > 1:  # not where only a stamp is asked for
            content = content[: server.break_after.pop(0)]
            self.wfile.write(content)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        with contextlib.suppress(ConnectionError):  # who wants a stamp does not read on
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass
