"""Connections: what --live names, and how it is opened."""

import os
import threading

import pytest

from tests.media import tone, write_video, write_wav
from tests.steady import Stopwatch
from utils.connections import StreamEnded, StreamLost, _Pipe, connect, find_source
from utils.errors import UserError
from utils.media import video_stream

STOP = threading.Event()


@pytest.mark.parametrize(
    ("address", "kind", "format"),
    [
        ("-", "stdin", None),
        ("rtsp://camera/1", "url", None),
        ("udp://239.0.0.1:1234", "url", None),
        ("https://tv/live.m3u8", "url", None),
        ("v4l2:/dev/video9", "device", "v4l2"),
        ("dshow:video=USB Capture", "device", "dshow"),
        ("/dev/null", "device", "v4l2"),  # any device node
    ],
)
def test_kinds_of_sources_are_told_by_their_address(address, kind, format):
    source = find_source(address)
    assert (source.kind, source.format) == (kind, format)


def test_a_path_is_a_file_that_is_played(tmp_path):
    path = write_video(tmp_path / "a b.ts", seconds=1)
    source = find_source(str(path))
    assert source.kind == "file"
    assert source.is_paced
    with connect(source, STOP) as container:
        assert video_stream(container).height == 72


def test_what_is_no_source_says_what_is():
    with pytest.raises(UserError, match=r"nowhere.ts is no URL, file or device: pass rtsp://"):
        find_source("nowhere.ts")


def test_passwords_and_signed_queries_are_not_shown():
    source = find_source("rtsp://user:secret@camera:554/1?token=secret")
    assert source.name == "rtsp://camera:554/1"
    assert "secret" in source.address


def test_what_may_come_back_is_lost_and_what_can_not_is_an_error(tmp_path):
    def opening(address):
        with connect(find_source(address), STOP):
            pass

    with pytest.raises(StreamLost, match="Connection refused"):
        opening("http://127.0.0.1:9/live.ts")
    with pytest.raises(UserError, match="Protocol not found"):
        opening("nonsense://127.0.0.1/")
    with pytest.raises(StreamLost):
        opening("/dev/null")
    text = tmp_path / "x.ts"
    text.write_text("no video")
    with pytest.raises(UserError, match="x.ts: not a video file"):
        opening(str(text))


def test_a_source_that_says_nothing_is_lost_in_time(monkeypatch):
    import socket

    monkeypatch.setattr("utils.connections.OPEN_SECONDS", 0.3)
    monkeypatch.setattr("utils.connections.READ_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/live.ts"
        with (
            Stopwatch() as watch,
            pytest.raises(StreamLost, match="no data came"),
            connect(find_source(address), STOP),
        ):
            pass
        assert watch.seconds < 5


def test_a_pipe_gives_what_is_there_and_ends_when_told_to():
    stop = threading.Event()
    reading, writing = os.pipe()
    pipe = _Pipe(reading, stop)
    os.write(writing, b"some")
    assert pipe.read(32768) == b"some"  # and does not wait for more
    threading.Timer(0.2, stop.set).start()
    assert pipe.read(32768) == b""
    assert not pipe.is_over
    stop.clear()
    os.close(writing)
    assert pipe.read(32768) == b""
    assert pipe.is_over
    os.close(reading)


def test_an_empty_stdin_is_over(monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(StreamEnded), connect(find_source("-"), STOP):
            pass


def test_sound_alone_opens_and_has_no_picture(tmp_path):
    from utils.media import MediaError

    path = write_wav(tmp_path / "a.wav", tone(440, 1, 16000), 16000)
    with (
        connect(find_source(str(path)), STOP) as container,
        pytest.raises(MediaError, match="no video stream"),
    ):
        video_stream(container)
