"""Live server: a recording sent over loopback as it plays, to whoever connects, with breaks."""

import contextlib
import socket
import struct
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av

from tests.steady import steady_seconds


@dataclass
class LiveServer:
    """Sends `path`, an MPEG-TS file, `speed` times as fast as it plays, from the first request on.

    A later connection starts at the last key picture of that moment. In `cuts`, half-open spans of
    the recording's seconds, nobody is served; `stalls` is the same without closing connections.
    """

    path: Path
    speed: float = 1.0
    cuts: list[tuple[float, float]] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> "LiveServer":
        self._content = self.path.read_bytes()
        self._places = _places(self.path)  # (seconds, byte) of every picture
        self._keys = _places(self.path, keys_only=True)
        self._began: float | None = None
        handler = type("Handler", (_Handler,), {"live": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._is_over = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/live.ts"
        return self

    def __exit__(self, *_) -> None:
        self._is_over = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def now(self) -> float:
        """The recording's second that is on the air."""
        self._began = self._began or steady_seconds()
        return (steady_seconds() - self._began) * self.speed

    @property
    def is_off(self) -> bool:
        """Whether nobody is served now: in a cut, and after the end."""
        return self._is_in(self.cuts) or self.now > self._places[-1][0] + 1.0

    def serve(self, send: "socket.socket") -> None:
        """Sends to one connection until it is cut or the recording is over."""
        position = self._keys[max(0, bisect_right(self._keys, (self.now, 0)) - 1)][1]
        self.connections += 1
        while not self._is_over and not self._is_in(self.cuts):
            index = bisect_right(self._places, (self.now, 0))
            end = self._places[index][1] if index < len(self._places) else len(self._content)
            if end > position and not self._is_in(self.stalls):
                send(self._content[position:end])
                position = end
            if position == len(self._content):
                return
            time.sleep(0.02)

    def _is_in(self, spans: list[tuple[float, float]]) -> bool:
        return any(start <= self.now < end for start, end in spans)


def _places(path: Path, *, keys_only: bool = False) -> list[tuple[float, int]]:
    """When each picture is sent and from which byte on, through jumps of the timestamps."""
    found, now, last = [], 0.0, None
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame_seconds = float(1 / stream.average_rate)
        for packet in container.demux(stream):
            if packet.size:
                seconds = float(packet.dts * packet.time_base)
                step = 0.0 if last is None else seconds - last
                now, last = now + (step if 0 <= step < 5 else frame_seconds), seconds
                if packet.is_keyframe or not keys_only:
                    found.append((now, packet.pos if found else 0))
    return found


class _Server(ThreadingHTTPServer):
    def service_actions(self) -> None:
        steady_seconds()  # goes on while nobody is served, too


class _Handler(BaseHTTPRequestHandler):
    live: LiveServer

    def do_GET(self) -> None:
        if self.live.is_off:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()

        def send(data: bytes) -> None:
            self.wfile.write(data)
            self.wfile.flush()

        with contextlib.suppress(ConnectionError):
            self.live.serve(send)

    def log_message(self, *_) -> None:
        pass


@dataclass
class RtspServer:
    """Sends `path`, an MPEG-TS file, `speed` times as fast as it plays, by RTSP over TCP, once."""

    path: Path
    speed: float = 1.0

    def __enter__(self) -> "RtspServer":
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/live"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rb") as asked:
                self._answer_until_play(connection, asked)
                self._send(connection)

    def _answer_until_play(self, connection: socket.socket, asked) -> None:
        media = "v=0\r\ns=live\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
        extras = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN", ""),
            "DESCRIBE": ("Content-Type: application/sdp", media),
            "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1", ""),
            "PLAY": ("Session: 1", ""),
        }
        method = ""
        while method != "PLAY":
            method = asked.readline().split()[0].decode()
            head = iter(lambda: asked.readline().strip().decode(), "")
            fields = dict(line.split(": ", 1) for line in head)
            line, body = extras[method]
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {fields['CSeq']}\r\n{line}\r\n"
            answer += f"Content-Length: {len(body)}\r\n\r\n{body}"
            connection.sendall(answer.encode())

    def _send(self, connection: socket.socket) -> None:
        """RTP packets of seven TS packets each (RFC 2250), at the pace of the file's pictures."""
        content, places, began = self.path.read_bytes(), _places(self.path), steady_seconds()
        size = 7 * 188
        for number, start in enumerate(range(0, len(content), size)):
            index = bisect_right([place for _, place in places], start) - 1
            seconds = places[max(0, index)][0]
            while steady_seconds() < began + seconds / self.speed:
                time.sleep(0.005)
            stamp = round(seconds * 90_000)
            head = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, stamp & 0xFFFFFFFF, 1)
            packet = head + content[start : start + size]
            connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
