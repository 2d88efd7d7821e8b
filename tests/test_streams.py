"""Streams: the features of a recording, on one line of time through all that breaks."""

import contextlib
import os
import socket
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.file_server import FileServer
from tests.live_server import LiveServer, RtspServer
from tests.media import draw_texture, read_time, tone, with_bars, write_video, write_wav
from tests.steady import steady_seconds, wait_until
from utils import streams
from utils.connections import StreamLost, find_source
from utils.errors import UserError
from utils.features import FeatureSpec, read_features
from utils.media import opened
from utils.mfcc import MfccSpec
from utils.streams import (
    BACKLOG_BLOCKS,
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    WAIT_GROWTH,
    StreamBlock,
    StreamNote,
    StreamReader,
    WallClock,
    read_stream,
)

SPEC = FeatureSpec(4.0, (36, 64), "fast", False, MfccSpec())
GOP = {"g": "12", "preset": "veryfast"}  # a key picture each half second


class FastClock(WallClock):
    """A day of `speed` times as many seconds, in which a machine that stands still loses none."""

    def __init__(self, speed: float):
        self.speed = speed

    def monotonic(self) -> float:
        return steady_seconds() * self.speed

    def wait(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(seconds / self.speed)


class FakeClock(WallClock):
    """Goes on when somebody waits."""

    def __init__(self):
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self.now += seconds
        self.waits.append(seconds)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A connection is not given up because this machine stands still for a while."""
    for name in ("OPEN_SECONDS", "READ_SECONDS", "PLAYLIST_READ_SECONDS"):
        monkeypatch.setattr(f"utils.connections.{name}", 60.0)


@contextlib.contextmanager
def connect_to_file(source, _stop):
    """A connection that breaks where the file ends."""
    with opened(source.address) as container:
        yield container
    raise StreamLost("it broke off")


def read(address, *, spec=SPEC, seconds=None, **options) -> list:
    """What a source gives, up to some seconds of it; files as fast as they can be read."""
    items = []
    stop = threading.Event()
    options = {"speed": 1e6, "give_up_seconds": 120.0, **options}
    for item in read_stream(find_source(str(address)), spec, stop=stop, **options):
        items.append(item)
        if seconds is not None and isinstance(item, StreamBlock) and item.seconds >= seconds:
            stop.set()
    return items


def blocks_of(items) -> list[StreamBlock]:
    return [item for item in items if isinstance(item, StreamBlock)]


def notes_of(items) -> list[tuple[str, str]]:
    return [(item.kind, item.description) for item in items if isinstance(item, StreamNote)]


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """12 seconds whose pictures tell their time and whose sound has a pitch for each second."""
    path = tmp_path_factory.mktemp("live") / "r.ts"
    tones = [300 * 1.25**k for k in range(12)]
    return write_video(path, seconds=12, tone_hz=tones, options=GOP)


def test_a_stream_has_the_frames_and_the_sound_of_the_recording(recording):
    blocks = blocks_of(read(recording))
    whole = list(read_features(recording, SPEC))
    frames = np.concatenate([block.frames for block in whole])
    assert all(len(block.frames) == 2 for block in blocks)
    np.testing.assert_array_equal(np.concatenate([b.frames for b in blocks]), frames)
    assert [block.seconds for block in blocks] == [k / 2 for k in range(24)]
    rows = np.concatenate([block.mfcc for block in whole]).astype(float)
    rate = SPEC.mfcc.frames_per_second
    compared = 0
    for part in (part for block in blocks for part in block.sound):
        for index, row in enumerate(part.rows.astype(float)):
            seconds = part.seconds + index / rate
            if 0.1 < seconds % 1 < 0.9:  # in the middle of a tone
                compared += 1
                assert abs(row - rows[round(seconds * rate)]).max() < 25, seconds
    assert compared > 200


def test_sound_comes_soon_after_its_pictures(recording):
    blocks = blocks_of(read(recording))
    last = 0.0
    for block in blocks:
        for part in block.sound:
            last = part.seconds + len(part.rows) / SPEC.mfcc.frames_per_second
        assert block.seconds < 2.0 or block.seconds + 0.5 - last < 2.0


def test_a_file_is_played_at_its_pace(recording):
    clock = FakeClock()
    read(recording, speed=8.0, clock=clock)
    assert clock.now == pytest.approx(12 / 8, abs=0.1)


def test_a_connection_that_breaks_is_made_again_and_time_goes_on(recording):
    with LiveServer(recording, speed=2.0, cuts=[(3.0, 8.0)]) as server:
        items = read(server.url, seconds=10.0, clock=FastClock(2.0))
    kinds = [kind for kind, _ in notes_of(items) if kind != "damage"]  # of a busy machine
    assert kinds[:2] == ["connected", "lost"]
    assert kinds[-1] == "reconnected"
    assert server.connections == 2
    times = [(block.seconds, read_time(block.frames[0])) for block in blocks_of(items)]
    assert all(later[0] > sooner[0] for sooner, later in pairwise(times))
    before = [shown - seconds for seconds, shown in times if shown < 5]
    after = [shown - seconds for seconds, shown in times if shown > 6]
    assert max(map(abs, before)) < 0.1
    assert after
    assert max(map(abs, after)) < 3  # of the five missing: opening takes its time, here twice


def test_a_source_that_stalls_is_lost_and_found(recording, monkeypatch):
    for name in ("OPEN_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(f"utils.connections.{name}", 0.4)
    with LiveServer(recording, speed=3.0, stalls=[(3.0, 6.0)]) as server:
        items = read(server.url, seconds=8.0, clock=FastClock(3.0))
    notes = notes_of(items)
    assert ("lost", "no data came for too long") in notes
    assert [kind for kind, _ in notes if kind != "damage"][-1] == "reconnected"


def test_pictures_that_stop_are_missed_though_sound_goes_on(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.ts", seconds=15, times=[0.0, 0.04, 0.08], audio_seconds=15)
    clock = FakeClock()

    def ticked(self, incoming):  # half a second of the clock for each packet
        clock.now += 0.5
        return next(incoming, None)

    monkeypatch.setattr(streams._Reading, "_next", ticked)
    monkeypatch.setattr(streams, "connect", connect_to_file)
    source = replace(find_source(str(path)), kind="url")
    items = read_stream(source, SPEC, stop=threading.Event(), clock=clock)
    said = next(item for item in items if getattr(item, "kind", "") == "lost")
    assert said.description == "no picture came for 10 s, only sound"


def test_sound_that_comes_first_after_a_long_silence_loses_nothing(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.ts", seconds=4)
    clock, real = FakeClock(), streams._Reading._next

    def silent_before_sound(self, incoming):
        packet = real(self, incoming)
        clock.now += 15.0 if packet and packet.stream.type == "audio" and clock.now == 0 else 0.0
        return packet

    monkeypatch.setattr(streams._Reading, "_next", silent_before_sound)
    monkeypatch.setattr(streams, "connect", connect_to_file)
    source = replace(find_source(str(path)), kind="url")
    items = read_stream(source, SPEC, stop=threading.Event(), clock=clock)
    said = next(item for item in items if getattr(item, "kind", "") == "lost")
    assert said.description == "it broke off"  # at the end of the file


@pytest.mark.parametrize("start_seconds", [5000.0, 2**33 / 90000 - 3.0], ids=["jump", "wrap"])
def test_timestamps_may_jump_and_wrap(tmp_path, start_seconds):
    first = write_video(tmp_path / "a.ts", seconds=6, start_seconds=90.0)
    second = write_video(tmp_path / "b.ts", seconds=6, start_seconds=start_seconds)
    items = read(joined(tmp_path / "c.ts", first, second))
    blocks = blocks_of(items)
    assert [block.seconds for block in blocks] == [k / 2 for k in range(len(blocks))]
    assert len(blocks) in (23, 24)
    for block in blocks:
        assert read_time(block.frames[0]) % 6 == pytest.approx(block.seconds % 6, abs=0.13)
    assert sum("timestamps jump" in text for _, text in notes_of(items)) == 1
    heard = [part for block in blocks for part in block.sound]
    covered = sum(len(part.rows) for part in heard) / SPEC.mfcc.frames_per_second
    assert covered > 10  # the rest is under way at the jump and at the end
    assert all(abs(part.seconds - block.seconds) < 2 for block in blocks for part in block.sound)


def test_size_and_sound_layout_may_change(tmp_path):
    first = write_video(tmp_path / "a.ts", seconds=4, draw=draw_texture)
    second = write_video(
        tmp_path / "b.ts",
        seconds=4,
        start_seconds=4.0,
        size=(144, 256),
        channels=2,
        draw=draw_texture,
    )
    items = read(joined(tmp_path / "c.ts", first, second))
    text = " / ".join(text for _, text in notes_of(items))
    assert "its pictures change from 128x72 to 256x144" in text
    assert "its sound changes from aac, 48000 Hz, mono to aac, 48000 Hz, stereo" in text
    blocks = blocks_of(items)
    assert len(blocks) in (15, 16)
    assert sum(len(p.rows) for block in blocks for p in block.sound) > 6 * 31


def test_missing_sound_is_no_sound_and_comes_back_in_its_place(tmp_path):
    tones = [440.0]
    first = write_video(tmp_path / "a.ts", seconds=3, tone_hz=tones)
    silent = write_video(
        tmp_path / "b.ts", seconds=16, start_seconds=3.0, tone_hz=tones, audio_delay_seconds=13
    )
    items = read(joined(tmp_path / "c.ts", first, silent))
    assert [text for kind, text in notes_of(items) if kind == "damage"] == [
        "its sound is missing",
        "its sound is back",
    ]
    parts = [part for block in blocks_of(items) for part in block.sound]
    rate = SPEC.mfcc.frames_per_second
    ends = [(part.seconds, part.seconds + len(part.rows) / rate) for part in parts]
    assert max(end for start, end in ends if start < 8) < 4
    assert min(start for start, end in ends if start > 8) == pytest.approx(16, abs=0.3)


def test_damage_in_the_middle_is_passed(recording, tmp_path):
    data = bytearray(recording.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40_000] = os.urandom(40_000)
    path = tmp_path / "d.ts"
    path.write_bytes(data)
    blocks = blocks_of(read(path))
    assert read_time(blocks[-1].frames[-1]) == pytest.approx(11.75, abs=0.3)
    assert blocks[-1].seconds + 0.5 == pytest.approx(12, abs=0.6)


def test_bars_are_cropped_once_they_are_seen(tmp_path):
    path = write_video(
        tmp_path / "bars.ts",
        seconds=11,
        fps=12,
        size=(144, 128),
        draw=with_bars(draw_texture, top=24, bottom=24),
    )
    blocks = blocks_of(read(path, spec=replace(SPEC, crop_bars=True)))
    top = [float(block.frames[-1][0].mean()) for block in blocks]
    assert top[0] < 30
    assert min(top[-8:]) > 60
    uncropped = blocks_of(read(path))
    assert max(float(block.frames[-1][0].mean()) for block in uncropped) < 30


def test_bars_that_come_and_go_are_cropped_where_they_are(tmp_path):
    """A stream shows now an upright video between bars, now a full picture."""

    def draw(seconds, height, width):
        has_bars = seconds < 8 or 16 <= seconds < 24
        return (with_bars(draw_texture, left=40, right=40) if has_bars else draw_texture)(
            seconds, height, width
        )

    path = write_video(tmp_path / "now.ts", seconds=32, fps=12, size=(144, 128), draw=draw)
    blocks = blocks_of(read(path, spec=replace(SPEC, crop_bars=True)))
    whole = {block.seconds: block for block in blocks_of(read(path))}
    sides = {block.seconds: float(block.frames[:, :, :6].mean()) for block in blocks}
    for start in (0, 16):
        assert all(value > 60 for t, value in sides.items() if start + 2 <= t < start + 8)
        full = [block for block in blocks if start + 8 <= block.seconds < start + 16]
        assert len(full) >= 15
        for block in full:  # at once, and all of it
            np.testing.assert_array_equal(block.frames, whole[block.seconds].frames)


def test_stdin_is_read_to_its_end(recording, monkeypatch):
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:
            data = recording.read_bytes()
            for start in range(0, len(data), 1880):
                pipe.write(data[start : start + 1880])

    threading.Thread(target=write, daemon=True).start()
    with open(reading, "rb") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        items = read("-")
    assert blocks_of(items)[-1].seconds == pytest.approx(11.5)
    assert [kind for kind, _ in notes_of(items)] == ["connected"]


def test_a_playlist_is_followed_as_it_grows_and_ends_when_it_says_so(tmp_path):
    segments = [
        write_video(tmp_path / f"{k}.ts", seconds=2, start_seconds=10 + 2 * k).read_bytes()
        for k in range(5)
    ]
    head = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n"

    def playlist(count: int, end: bytes = b"") -> bytes:
        return head + b"".join(b"#EXTINF:2.0,\n%d.ts\n" % k for k in range(count)) + end

    with FileServer({f"/{k}.ts": data for k, data in enumerate(segments)}, resumes=False) as server:
        server.files["/live.m3u8"] = playlist(2)

        def grow() -> None:
            wait_until(lambda: server.requests)  # it is there that a reader begins
            for count in (3, 4, 5):
                time.sleep(0.7)
                server.files["/live.m3u8"] = playlist(count, b"#EXT-X-ENDLIST\n" * (count == 5))

        threading.Thread(target=grow, daemon=True).start()
        items = read(server.url + "/live.m3u8")
    blocks = blocks_of(items)
    assert [kind for kind, _ in notes_of(items)] == ["connected"]
    assert blocks[-1].seconds + 0.5 == pytest.approx(
        8.0, abs=0.6
    )  # from the newest of the first two


def test_rtsp_is_read(recording):
    with RtspServer(recording, speed=4.0) as server:
        blocks = blocks_of(read(server.url, seconds=8.0, clock=FastClock(4.0)))
    for block in blocks:
        assert read_time(block.frames[0]) == pytest.approx(block.seconds, abs=0.05)
    assert sum(len(part.rows) for block in blocks for part in block.sound) > 5 * 31


def test_udp_is_read(recording):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        port = sender.getsockname()[1]
    is_over = threading.Event()

    def send() -> None:
        """When somebody listens, no faster than they take it: what there is no room for is lost."""
        data = recording.read_bytes()

        def is_wanted() -> bool:
            return is_over.is_set() or bytes_waiting(port) == 0

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for start in range(0, len(data), 7 * 188):
                wait_until(is_wanted, every_seconds=0.002)
                if is_over.is_set():
                    return
                sender.sendto(data[start : start + 7 * 188], ("127.0.0.1", port))
                time.sleep(0.004)

    sending = threading.Thread(target=send)
    sending.start()
    blocks = blocks_of(read(f"udp://127.0.0.1:{port}", seconds=5.0, clock=FastClock(1.0)))
    is_over.set()
    sending.join()
    first = read_time(blocks[0].frames[0])  # what came before it was listened to is lost
    for block in blocks:
        assert read_time(block.frames[0]) - first == pytest.approx(block.seconds, abs=0.3)


def bytes_waiting(port: int) -> int | None:
    """What was sent to a port of UDP and not taken yet; None where nobody listens."""
    for table in ("udp", "udp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, _, queues = line.split()[:5]
            if local.endswith(f":{port:04X}"):
                return int(queues.partition(":")[2], 16)
    return None


def test_waits_grow_and_are_drawn_at_random_until_it_gives_up():
    clock = FakeClock()
    source = find_source("http://127.0.0.1:9/x.ts")
    items = read_stream(source, SPEC, stop=threading.Event(), clock=clock, give_up_seconds=600.0)
    assert notes_of([next(items)]) == [("lost", "Connection refused")]
    with pytest.raises(StreamLost, match=r"no picture for \d+.\d minutes \(Connection refused"):
        list(items)
    for attempt, wait in enumerate(clock.waits):
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * WAIT_GROWTH**attempt)
        assert longest / 2 <= wait <= longest
    assert 600 <= clock.now < 700


def test_what_can_not_be_read_at_all_is_said_at_once(tmp_path):
    sound = write_wav(tmp_path / "a.wav", tone(440, 1, 16000), 16000)
    with pytest.raises(UserError, match="a.wav: no video stream"):
        read(sound)


def test_a_reader_that_is_too_slow_leaves_out_pictures_and_says_so(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.ts", seconds=20, tone_hz=None, options={"bf": "2"})
    clock = FakeClock()
    real = streams._Reading._look_at

    def slow(self, moment):  # ten pictures a second of 25
        clock.now += 0.1
        real(self, moment)

    monkeypatch.setattr(streams._Reading, "_look_at", slow)
    monkeypatch.setattr(streams, "connect", connect_to_file)
    source = replace(find_source(str(path)), kind="url")
    items = []
    for item in read_stream(source, SPEC, stop=threading.Event(), clock=clock):
        if getattr(item, "kind", "") == "lost":
            break
        items.append(item)
    assert ("damage", "decoding takes too long: pictures are left out") in notes_of(items)
    assert len(blocks_of(items)) == 40  # the grid has its pictures all the same


def block(seconds: float, *, lag: float = 0.0) -> StreamBlock:
    frames = np.zeros((2, 36, 64, 3), np.uint8)
    return StreamBlock(seconds, frames, (), arrived=0.0, lag_seconds=lag, num_corrupt=0)


def reader_of(items, monkeypatch) -> StreamReader:
    monkeypatch.setattr(streams, "read_stream", lambda *_, **__: iter(items))
    return StreamReader(find_source("-"), SPEC)


def drained(reader) -> list:
    items = []
    with contextlib.suppress(EOFError):
        while True:
            item = reader.take(60.0)
            assert item is not None
            items.append(item)
    return items


def test_a_reader_waits_for_its_taker_where_the_source_can_wait(monkeypatch):
    reader = reader_of([block(k / 2) for k in range(3 * BACKLOG_BLOCKS)], monkeypatch)
    time.sleep(0.1)
    assert len(drained(reader)) == 3 * BACKLOG_BLOCKS
    assert reader.dropped_seconds == 0


def test_a_reader_stays_at_the_live_edge_and_keeps_its_notes(monkeypatch):
    late = [block(k / 2, lag=60.0) for k in range(3 * BACKLOG_BLOCKS)]
    reader = reader_of([StreamNote("connected", 0.0, ""), *late], monkeypatch)
    reader._thread.join(60)
    items = drained(reader)
    assert items[0].kind == "connected"
    assert items[-1] is late[-1]
    assert len(items) == BACKLOG_BLOCKS
    assert reader.dropped_seconds == (2 * BACKLOG_BLOCKS + 1) / 2


def test_a_reader_passes_errors_on_and_can_be_closed_while_it_waits(monkeypatch):
    def failing(*_, **__):
        yield block(0.0)
        raise StreamLost("for good")

    monkeypatch.setattr(streams, "read_stream", failing)
    reader = StreamReader(find_source("-"), SPEC)
    assert reader.take(60.0).seconds == 0
    with pytest.raises(StreamLost, match="for good"):
        reader.take(60.0)
    full = reader_of([block(k / 2) for k in range(3 * BACKLOG_BLOCKS)], monkeypatch)
    time.sleep(0.1)
    full.close()
    full._thread.join(60)
    assert not full._thread.is_alive()


def test_memory_does_not_grow_over_hundreds_of_connections(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.ts", seconds=1, size=(36, 64), options={"preset": "ultrafast"})
    monkeypatch.setattr(streams, "connect", connect_to_file)
    source = replace(find_source(str(path)), kind="url")
    stop, lost, sizes = threading.Event(), 0, []
    for item in read_stream(source, SPEC, stop=stop, clock=FakeClock()):
        lost += isinstance(item, StreamNote) and item.kind == "lost"
        sizes.append(psutil.Process().memory_info().rss)
        if lost == 100:
            stop.set()
    quarter = len(sizes) // 4
    assert max(sizes[-quarter:]) - max(sizes[quarter : 2 * quarter]) < 3 << 20
