"""Tracks: the sound of a live connection, in step with its pictures."""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from utils.audio import Sound
from utils.media import MAX_STEP_BACK_SECONDS, Clock
from utils.mfcc import MfccSpec

GAP_SECONDS = 1.0  # without sound: a longer one has no rows
MISSING_SOUND_SECONDS = 5.0  # worth a word
MAX_OFFSET_SECONDS = 5.0  # from the picture: a longer one is another time base
MAX_ROWS = 1 << 20  # at a time: all there are


@dataclass(frozen=True)
class SoundRows:
    """Rows of MFCC in sequence."""

    seconds: float  # of the centre of the first
    rows: np.ndarray  # (m, n_mfcc) float16


class LiveTrack:
    """The sound of a connection, tied to the picture's clock anew wherever it breaks off.

    A hole longer than GAP_SECONDS has no rows, which the network knows as no sound. In a recording
    it would be silence; of a live stream nobody knows when the sound comes back.
    """

    def __init__(self, stream: av.AudioStream, spec: MfccSpec, clock: Clock, block_seconds: float):
        self.stream = stream
        self._spec = spec
        self._block_seconds = block_seconds
        self._clock = clock
        self._time_base = float(stream.time_base)
        self._sound: Sound | None = None
        self._seconds = 0.0  # of the first row of `_sound`, of the connection's time
        self._num_rows = 0  # taken of `_sound`
        self._zero: float | None = None
        self._due: float | None = None  # container time of the next packet
        self._heard_seconds = 0.0  # when the last packet came
        self._is_missing = False
        self._layout = self.description
        self._ready: list[SoundRows] = []

    @property
    def description(self) -> str:
        context = self.stream.codec_context
        return f"{context.name}, {context.sample_rate} Hz, {context.layout.name}"

    def take(self, packet: av.Packet, picture_seconds: float) -> None:
        """Goes on with the next packet, which came when that picture did."""
        self._heard_seconds = picture_seconds
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None and self._due is None:
            return
        raw = self._due if ticks is None else ticks * self._time_base
        is_new = self._sound is None or self._clock.zero != self._zero
        if is_new or not -MAX_STEP_BACK_SECONDS < raw - self._due < GAP_SECONDS:
            self._tie(raw, picture_seconds)
        self._due = raw + (packet.duration or 0) * self._time_base
        self._sound.take(packet)

    def taken_rows(self, start_seconds: float) -> tuple[SoundRows, ...]:
        """The rows made since the last time, of a connection that began then."""
        self._collect()
        ready, self._ready = self._ready, []
        return tuple(SoundRows(start_seconds + part.seconds, part.rows) for part in ready)

    def changes(self, picture_seconds: float) -> Iterator[str]:
        """What happened to the sound since the last time."""
        is_missing = picture_seconds - self._heard_seconds > MISSING_SOUND_SECONDS
        if is_missing != self._is_missing:
            self._is_missing = is_missing
            yield "its sound is missing" if is_missing else "its sound is back"
        if self.description != self._layout:
            yield f"its sound changes from {self._layout} to {self.description}"
            self._layout = self.description

    def _tie(self, raw: float, picture_seconds: float) -> None:
        self._collect()
        self._zero = self._clock.zero
        seconds = raw - self._zero
        is_far_off = abs(seconds - picture_seconds) > MAX_OFFSET_SECONDS
        self._seconds = picture_seconds if is_far_off else seconds
        self._num_rows = 0
        self._sound = Sound(
            self.stream, self._spec, first_row=0, is_part=False, block_seconds=self._block_seconds
        )
        self._sound.start(raw)

    def _collect(self) -> None:
        if self._sound is None:
            return
        made = self._sound.rows(self._num_rows + MAX_ROWS)
        if len(made):
            first = self._seconds + self._num_rows / self._spec.frames_per_second
            self._ready.append(SoundRows(first, made))
            self._num_rows += len(made)
