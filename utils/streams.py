"""Streams: a live source read into short blocks of features, however often it breaks off."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from utils.bars import LiveBars
from utils.connections import LiveSource, StreamEnded, StreamLost, connect, describe
from utils.errors import UserError
from utils.features import FeatureSpec
from utils.media import (
    MAX_STREAM_GAP_SECONDS,
    Clock,
    MediaError,
    audio_stream,
    frame_rate,
    video_stream,
)
from utils.scaling import PyavScaler, displayed_size
from utils.tracks import LiveTrack, SoundRows
from utils.video import Moment, moments_of, pictures_on_grid

BLOCK_SECONDS = 0.5
MAX_FAILURES = 100  # packets that can't be read, one after another
STALL_SECONDS = 10.0  # of data without a picture: such a connection is made anew
WRAP_SECONDS = 2**33 / 90_000  # of the timestamps of MPEG-TS
GAP_SECONDS = 1.0  # between two pictures: worth a word
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0  # before connecting again
WAIT_GROWTH = 1.5  # the last wait is at most about a third of the outage
STEADY_SECONDS = 10.0  # a connection that lasted as long begins with the shortest wait again
MAX_LAG_SECONDS = 5.0  # behind the live edge: then the oldest is dropped
SKIP_LAG_SECONDS, CAUGHT_UP_SECONDS = 3.0, 0.5
WATCH_SECONDS, RARE_WAIT = 2.0, 0.05  # less than 5 % of 2 s, twice: this machine is too slow
LAG_FORGOTTEN = 0.001  # of the time that passes: the sender's clock is not ours
BACKLOG_BLOCKS = 40  # 20 seconds, 2 MB at 96x96
JOIN_SECONDS = 2.0  # for a reader that waits for data: it is left behind then


class WallClock:
    """The time, for those who read a stream; tests have their own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(seconds)


@dataclass(frozen=True)
class StreamBlock:
    """About BLOCK_SECONDS of a stream.

    Times are seconds since the first picture of the first connection. They go on through jumps of
    the source's timestamps, and by the wall clock while there is no connection.
    """

    seconds: float  # of the first frame
    frames: np.ndarray  # (n, H, W, 3) uint8 RGB, 1 / fps apart
    sound: tuple[SoundRows, ...]  # what was decoded since the last block
    arrived: float  # when the last picture came, of the clock's `monotonic`
    lag_seconds: float  # behind the best that this connection was
    num_corrupt: int  # pictures of this block's time that were decoded with errors


@dataclass(frozen=True)
class StreamNote:
    """What happened to a stream, in one line."""

    kind: str  # "connected", "lost", "reconnected", "damage"
    seconds: float
    description: str


def read_stream(
    source: LiveSource,
    spec: FeatureSpec,
    *,
    stop: threading.Event,
    clock: WallClock | None = None,
    give_up_seconds: float | None = None,
    speed: float = 1.0,
) -> Iterator[StreamBlock | StreamNote]:
    """Yields what a source sends until it ends or `stop` is set, over any number of connections.

    A file is played `speed` times as fast as it was taken. Files, stdin and what says how long it
    is end; all else is connected to again, after waits that grow and are drawn at random, so that
    a hundred readers don't return at once. Memory does not grow. Raises StreamLost after
    `give_up_seconds` without a picture, UserError for a source that can't be read here.
    """
    clock = clock or WallClock()
    began = clock.monotonic()
    last: _Picture | None = None
    attempts, told = 0, ""
    while not stop.is_set():
        reading, connected = None, clock.monotonic()
        try:
            with connect(source, stop) as container:
                reading = _Reading(container, spec, last, clock=clock, stop=stop)
                if source.is_paced:
                    reading.pace(speed)
                yield from reading.blocks()
                if stop.is_set() or source.ends or container.duration:
                    return
            reason = "the source ended it"
        except StreamEnded as error:
            if last is None:
                raise UserError(f"{source.name}: {error}") from error
            return
        except MediaError as error:
            if last is None and reading is None:  # it was there, and held no picture
                raise UserError(f"{source.name}: {error}") from error
            reason = str(error)
        except StreamLost as error:
            reason = str(error)
        if source.kind == "file":
            raise UserError(f"{source.name}: {reason}")
        if stop.is_set():
            return
        now = clock.monotonic()
        if reading is not None and reading.last is not None:
            last = reading.last
            attempts = 0 if now - connected >= STEADY_SECONDS else attempts
            told = ""
        if reason != told:  # an outage of a day would be thousands of lines
            yield StreamNote("lost", last.at(now) if last else 0.0, reason)
            told = reason
        without = now - (last.arrived if last else began)
        if give_up_seconds is not None and without >= give_up_seconds:
            raise StreamLost(f"no picture for {without / 60:.1f} minutes ({reason})")
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * WAIT_GROWTH ** min(attempts, 20))
        clock.wait(wait * random.uniform(0.5, 1.0), stop)
        attempts += 1


class StreamReader:
    """A thread that reads a stream ahead of who takes it from here; `close` ends it.

    Up to BACKLOG_BLOCKS wait. When they are full, a source that is faster than its pictures are
    shown has to wait. One that is live can't: where it is MAX_LAG_SECONDS ahead of the reader, the
    oldest blocks are dropped.
    """

    def __init__(self, source: LiveSource, spec: FeatureSpec, **options: object):
        self.dropped_seconds = 0.0
        self._stop = threading.Event()
        self._items: deque[StreamBlock | StreamNote] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._error: Exception | None = None
        self._stream = read_stream(source, spec, stop=self._stop, **options)
        self._fps = spec.fps
        self._thread = threading.Thread(target=self._read, daemon=True, name="stream")
        self._thread.start()

    def take(self, timeout_seconds: float) -> StreamBlock | StreamNote | None:
        """The next of what was read, None if nothing came in time. Raises EOFError after the end,
        or what ended the reading."""
        with self._changed:
            if not self._items and not self._is_over:
                self._changed.wait(timeout_seconds)
            if self._items:
                self._changed.notify_all()
                return self._items.popleft()
            if not self._is_over:
                return None
            if self._error is not None:
                raise self._error
            raise EOFError

    def close(self) -> None:
        """Ends the reading; a thread that waits for data that don't come ends with the process."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(JOIN_SECONDS)

    def _read(self) -> None:
        try:
            for item in self._stream:
                self._put(item)
        except Exception as error:  # noqa: BLE001 - handed to the taker, which raises it
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self, item: StreamBlock | StreamNote) -> None:
        with self._changed:
            while len(self._items) >= BACKLOG_BLOCKS and not self._stop.is_set():
                is_late = isinstance(item, StreamBlock) and item.lag_seconds > MAX_LAG_SECONDS
                if not (is_late and self._drop_oldest()):
                    self._changed.wait()
            self._items.append(item)
            self._changed.notify_all()

    def _drop_oldest(self) -> bool:
        """Notes stay, they are few."""
        for index, item in enumerate(self._items):
            if isinstance(item, StreamBlock):
                del self._items[index]
                self.dropped_seconds += len(item.frames) / self._fps
                return True
        return False


@dataclass(frozen=True)
class _Picture:
    """The last picture of a connection."""

    seconds: float
    arrived: float
    origin: float  # when the stream's very first picture came

    def at(self, now: float) -> float:
        """The stream's time at a later moment, by the clock since its first picture: counted from
        the last one, it would run ahead by what each new connection sends in advance."""
        return max(self.seconds, now - self.origin)


class _Reading:
    """One connection, read from its first picture on."""

    def __init__(
        self,
        container: av.container.InputContainer,
        spec: FeatureSpec,
        before: _Picture | None,
        *,
        clock: WallClock,
        stop: threading.Event,
    ):
        self.last: _Picture | None = None
        self._container = container
        self._spec = spec
        self._before = before
        self._wall = clock
        self._stop = stop
        self._stream = video_stream(container)
        self._clock = Clock(self._stream)
        self._clock.max_gap_seconds = MAX_STREAM_GAP_SECONDS
        track = audio_stream(container)
        self._track = track and LiveTrack(track, spec.mfcc, self._clock, BLOCK_SECONDS)
        self._notes: list[StreamNote] = []
        self._start_seconds = self._began = self._origin = 0.0
        self._speed: float | None = None
        self._lag = _Lag()
        self._waiting = _Waiting()
        self._num_corrupt = 0
        self._size = (0, 0)

    def pace(self, speed: float) -> None:
        """Lets pictures come no sooner than they are due."""
        self._speed = speed

    def blocks(self) -> Iterator[StreamBlock | StreamNote]:
        """Yields blocks, each after what happened in its time. Raises StreamLost, MediaError."""
        spec = self._spec
        context = self._stream.codec_context
        if spec.frames not in ("exact", "opencv"):
            context.options = {"skip_loop_filter": "all"}
        # Every picture is decoded: to know which ones could be left out takes a look 32 ahead.
        moments = moments_of(self._packets(), self._stream, self._clock, spec.fps, mode="exact")
        bars = LiveBars()
        scaler = PyavScaler(spec.frame_size, None)
        crop = None
        block_frames = max(1, round(BLOCK_SECONDS * spec.fps))
        frames: list[np.ndarray] = []
        for index, picture in enumerate(pictures_on_grid(self._watched(moments), spec.fps)):
            if self._stop.is_set():
                break
            if spec.crop_bars and (found := bars.crop_of(picture)) != crop:
                crop = found
                scaler = PyavScaler(spec.frame_size, crop)
            frames.append(scaler(picture))
            if len(frames) == block_frames:
                first = self._start_seconds + (index + 1 - block_frames) / spec.fps
                yield from self._taken_notes()
                yield self._block(first, np.stack(frames))
                frames = []
        yield from self._taken_notes()

    def _block(self, seconds: float, frames: np.ndarray) -> StreamBlock:
        num_corrupt, self._num_corrupt = self._num_corrupt, 0
        sound = self._track.taken_rows(self._start_seconds) if self._track else ()
        return StreamBlock(
            seconds, frames, sound, self.last.arrived, self._lag.seconds, num_corrupt
        )

    def _taken_notes(self) -> list[StreamNote]:
        notes, self._notes = self._notes, []
        return notes

    def _watched(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        """The moments, when they are due, with a look at what changes between them."""
        zero = last_seconds = None
        for moment in moments:
            now = self._wall.monotonic()
            if zero is None:
                self._begin(moment.picture, now)
            elif self._clock.zero != zero:
                jump = self._unwrapped(self._clock.zero - zero)
                self._note("damage", moment, f"its timestamps jump by {jump:+.1f} s")
            elif moment.seconds - last_seconds > GAP_SECONDS:
                self._note("damage", moment, f"{moment.seconds - last_seconds:.1f} s are missing")
            zero, last_seconds = self._clock.zero, moment.seconds
            self._look_at(moment)
            if self._speed is not None:
                now = self._paced(moment.seconds, now)
            else:  # a file waits for its reader
                self._lag.see(moment.seconds, now)
                self._keep_up(moment, now)
            self.last = _Picture(self._start_seconds + moment.seconds, now, self._origin)
            yield moment

    def _begin(self, picture: av.VideoFrame, now: float) -> None:
        kind, self._began, self._origin = "connected", now, now
        if self._before is not None:
            kind, self._origin = "reconnected", self._before.origin
            self._start_seconds = self._before.at(now)
        self._size = displayed_size(picture)
        height, width = self._size
        codec = self._stream.codec_context.name
        sound = self._track.description if self._track else "no sound"
        says = f"{width}x{height}, {frame_rate(self._stream):.4g} fps, {codec}; {sound}"
        self._notes.append(StreamNote(kind, self._start_seconds, says))

    def _paced(self, seconds: float, now: float) -> float:
        ahead = self._began + seconds / self._speed - now
        if ahead > 0:
            self._wall.wait(ahead, self._stop)
        return self._wall.monotonic()

    def _look_at(self, moment: Moment) -> None:
        self._num_corrupt += bool(moment.picture.is_corrupt)
        size = displayed_size(moment.picture)
        if size != self._size:
            old, new = (f"{width}x{height}" for height, width in (self._size, size))
            self._note("damage", moment, f"its pictures change from {old} to {new}")
            self._size = size
        if self._track is not None:
            for change in self._track.changes(moment.seconds):
                self._note("damage", moment, change)

    def _keep_up(self, moment: Moment, now: float) -> None:
        """Leaves out pictures that no other needs where decoding all takes too long."""
        context = self._stream.codec_context
        is_busy = self._waiting.is_rare(now)
        if self._lag.seconds > SKIP_LAG_SECONDS and is_busy and context.skip_frame != "NONREF":
            context.skip_frame = "NONREF"
            self._note("damage", moment, "decoding takes too long: pictures are left out")
        elif self._lag.seconds < CAUGHT_UP_SECONDS and context.skip_frame == "NONREF":
            context.skip_frame = "DEFAULT"

    def _unwrapped(self, jump_seconds: float) -> float:
        """Without the turn of the counter that libav takes a step back for."""
        if self._container.format.name != "mpegts":
            return jump_seconds
        return (jump_seconds + WRAP_SECONDS / 2) % WRAP_SECONDS - WRAP_SECONDS / 2

    def _note(self, kind: str, moment: Moment, description: str) -> None:
        self._notes.append(StreamNote(kind, self._start_seconds + moment.seconds, description))

    def _packets(self) -> Iterator[av.Packet | None]:
        """Yields the packets of pictures, then None; those of sound are decoded between them."""
        streams = [self._stream, *([self._track.stream] if self._track else [])]
        without_seconds, before = 0.0, self._wall.monotonic()
        for packet in self._demuxed(streams):
            now = self._wall.monotonic()
            # After a long silence, of this machine too, it is chance whether sound comes first.
            without_seconds += min(now - before, GAP_SECONDS)
            before = now
            if self._stop.is_set():
                break
            if packet.stream_index == self._stream.index:
                without_seconds = 0.0
                yield packet
            elif self._clock.zero is not None and self.last is not None:
                self._track.take(packet, self.last.seconds - self._start_seconds)
            if without_seconds > STALL_SECONDS:
                raise StreamLost(f"no picture came for {STALL_SECONDS:g} s, only sound")
        yield None

    def _demuxed(self, streams: list[av.stream.Stream]) -> Iterator[av.Packet]:
        failures = 0
        while failures < MAX_FAILURES:
            incoming = iter(self._container.demux(*streams))
            try:
                while (packet := self._next(incoming)) is not None:
                    if packet.size:
                        failures = 0
                        yield packet
                return
            except IndexError:  # of PyAV, at the end of a stream in which a track appeared midway
                return
            except av.error.InvalidDataError:
                failures += 1
            except av.FFmpegError as error:
                raise StreamLost(describe(error)) from error
        raise StreamLost(f"{MAX_FAILURES} packets in sequence can't be read")

    def _next(self, incoming: Iterator[av.Packet]) -> av.Packet | None:
        before = self._wall.monotonic()
        packet = next(incoming, None)
        self._waiting.add(self._wall.monotonic() - before)
        return packet


class _Lag:
    """How far pictures come behind the best time that this connection showed."""

    def __init__(self):
        self.seconds = 0.0
        self._best: float | None = None
        self._last = 0.0

    def see(self, seconds: float, now: float) -> None:
        ahead = seconds - now
        if self._best is not None:
            ahead_before = self._best - LAG_FORGOTTEN * (now - self._last)
            self._best = max(ahead, ahead_before)
        else:
            self._best = ahead
        self._last = now
        self.seconds = self._best - ahead


class _Waiting:
    """How much of the time is spent waiting for data."""

    def __init__(self):
        self._since: float | None = None
        self._seconds = 0.0
        self._num_rare = 0  # periods in sequence

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def is_rare(self, now: float) -> bool:
        """Tells whether it is the source that waits, and not the reader, and not just once."""
        if self._since is None:  # what opening took does not count
            self._since, self._seconds = now, 0.0
        if now - self._since > WATCH_SECONDS:
            is_rare = self._seconds < RARE_WAIT * (now - self._since)
            self._num_rare = self._num_rare + 1 if is_rare else 0
            self._since, self._seconds = now, 0.0
        return self._num_rare > 1
