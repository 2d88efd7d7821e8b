"""Connections: a live source, opened as its kind needs."""

import contextlib
import errno
import os
import re
import select
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import av

from utils.errors import UserError
from utils.media import MediaError, opened

STDIN = "-"
# Formats of devices that libav knows, written before the device as in `dshow:video=Capture`.
DEVICE_FORMATS = ("v4l2", "avfoundation", "dshow", "x11grab", "lavfi")
OPEN_SECONDS, READ_SECONDS = 20.0, 10.0  # without a byte
PLAYLIST_READ_SECONDS = 30.0  # HLS brings a segment at a time, of 2 to 10 seconds each
POLL_SECONDS = 0.5  # between two looks at whether reading is to stop
OPTIONS = {
    "rtsp_flags": "prefer_tcp",  # UDP loses packets, and pictures with them
    "overrun_nonfatal": "1",  # of UDP: what came too fast is lost, the rest is not
    "live_start_index": "-1",  # of HLS: the newest segment, not the third last
    "merge_pmt_versions": "1",  # of MPEG-TS: a new programme table goes on with the same streams
    "analyzeduration": "3000000",  # microseconds; the pictures read meanwhile are not lost
}


class StreamLost(Exception):
    """A connection that can't be made or broke; the message says in one line why."""


class StreamEnded(Exception):
    """There is nothing more to read, now or later."""


@dataclass(frozen=True)
class LiveSource:
    """Where a live stream comes from."""

    address: str
    kind: str  # "stdin", "url", "device", "file"
    format: str | None = None

    @property
    def name(self) -> str:
        """The address as it may be shown: without a password and without a signed query."""
        if self.kind != "url":
            return self.address
        parts = urlsplit(self.address)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))

    @property
    def is_paced(self) -> bool:
        """Whether it has to be slowed down to the pace at which it plays."""
        return self.kind == "file"

    @property
    def is_playlist(self) -> bool:
        return self.kind == "url" and urlsplit(self.address).path.endswith(".m3u8")

    @property
    def ends(self) -> bool:
        """Whether its end is one, and not a connection that broke: a live playlist says so."""
        return self.kind in ("file", "stdin") or self.is_playlist


def find_source(address: str) -> LiveSource:
    """What `--live` names: `-`, a URL, a device (`/dev/video0`, `avfoundation:0`) or a file.

    Raises UserError where it is none of them.
    """
    if address == STDIN:
        return LiveSource(address, "stdin")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", address):
        return LiveSource(address, "url")
    format, _, device = address.partition(":")
    if device and format in DEVICE_FORMATS:
        return LiveSource(device, "device", format)
    path = Path(address)
    if path.exists() and stat.S_ISCHR(path.stat().st_mode):
        return LiveSource(address, "device", "v4l2")
    if path.is_file():
        return LiveSource(address, "file")
    raise UserError(
        f"{address} is no URL, file or device: pass rtsp://, http://, udp:// and the like, "
        f"- for stdin, /dev/video0, or one of {', '.join(DEVICE_FORMATS)} before a device "
        "(dshow:video=Name)"
    )


@contextlib.contextmanager
def connect(source: LiveSource, stop: threading.Event) -> Iterator[av.container.InputContainer]:
    """Opens a source. Raises StreamLost where another try may help, UserError where none does."""
    if source.kind == "file":
        try:
            with opened(source.address) as container:
                yield container
        except MediaError as error:
            raise UserError(f"{source.name}: {error}") from error
        return
    pipe = _Pipe(sys.stdin.fileno(), stop) if source.kind == "stdin" else None
    read_seconds = PLAYLIST_READ_SECONDS if source.is_playlist else READ_SECONDS
    try:
        container = av.open(
            pipe or source.address,
            format=source.format,
            options=OPTIONS,
            timeout=(max(OPEN_SECONDS, read_seconds), read_seconds),
            metadata_errors="replace",
        )
    except (av.error.ProtocolNotFoundError, av.error.DemuxerNotFoundError) as error:
        raise UserError(f"{source.name} can't be opened here ({error.strerror})") from error
    except av.FFmpegError as error:
        if pipe is not None and pipe.is_over:
            raise StreamEnded("it ended before there was a picture") from error
        raise StreamLost(describe(error)) from error
    except ValueError as error:  # of PyAV itself, for a format that this build lacks
        raise UserError(f"{source.name}: this build of PyAV can't read {source.format}") from error
    with container:
        yield container


def describe(error: av.FFmpegError) -> str:
    """What libav says, in words of those who wait for data."""
    if isinstance(error, av.error.ExitError):
        return "no data came for too long"
    if error.errno == errno.EIO:
        return "the connection broke off"
    return error.strerror or str(error)


class _Pipe:
    """A file for libav over a file descriptor: what is there at once, and nothing after a stop."""

    def __init__(self, descriptor: int, stop: threading.Event):
        self._descriptor = descriptor
        self._stop = stop
        self.is_over = False

    def read(self, size: int) -> bytes:
        while not self._stop.is_set():
            if select.select([self._descriptor], [], [], POLL_SECONDS)[0]:
                data = os.read(self._descriptor, size)
                self.is_over = not data
                return data
        return b""
