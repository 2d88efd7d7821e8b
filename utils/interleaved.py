"""Interleaved: picture and sound of a file, read in one pass over it."""

import os
from collections.abc import Iterator

import av
import numpy as np

from utils.audio import RUN_UP_SECONDS, Sound
from utils.media import Clock, Part, SplitError, packets
from utils.video import first_picture_seconds

# Sound held until the first picture says where time zero is, in files that put all of it first.
MAX_EARLY_BYTES = 16 << 20
# A part's sound, or its key packet, is not there where other packets are that far ahead of it.
MAX_AHEAD_SECONDS = 30.0


class Interleaved:
    """The video packets of a part of a file; its sound is decoded as it is met between them.

    Nothing waits for its time, however far apart picture and sound lie in the file: rows of sound
    come before or after the frames that they belong to.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        stream: av.VideoStream,
        sound: Sound | None,
        clock: Clock,
        part: Part,
    ):
        self._path = path
        self._stream = stream
        self._sound = sound
        self._clock = clock
        self._part = part
        container = stream.container
        if part.start is not None:
            run_up = round(RUN_UP_SECONDS / stream.time_base)
            try:
                container.seek(part.start.pts - run_up, stream=stream)
            except av.FFmpegError as error:
                raise SplitError(f"its start was not found ({error.strerror})") from error
        streams = [stream] if sound is None else [stream, sound.stream]
        self._packets = packets(container, *streams)
        self._sound_time_base = 0.0 if sound is None else float(sound.stream.time_base)

    @property
    def heard(self) -> bool:
        return self._sound.heard

    def video_packets(self) -> Iterator[av.Packet | None]:
        """Yields the packets of pictures from the part's key packet on, then None.

        Raises SplitError where that packet is not where it was.
        """
        start = self._part.start
        for packet in self._packets:
            if packet is None:
                break
            if packet.stream_index != self._stream.index:
                self._hear(packet)
            elif start is None:
                self._clock.meet_picture()
                yield packet
            elif start.is_at(packet):
                start = None
                yield packet
            elif _is_behind(packet, start.pts):
                break
        if start is not None:
            raise SplitError("its start was not found")
        yield None

    def rows(self, num_rows: int) -> np.ndarray:
        """Returns (m, n_mfcc) float16: the first `num_rows` rows as far as their sound was met, but
        those returned before."""
        return self._sound.rows(num_rows)

    def finish(self, num_rows: int) -> np.ndarray:
        """Returns the rest of the first `num_rows` rows, with silence where the sound ends."""
        if not self._sound.has_started:
            self._sound.start(self._clock.zero)
        end = self._part.end
        for packet in self._packets:
            if packet is None or self._sound.has_rows(num_rows):
                break
            if packet.stream_index == self._sound.stream.index:
                self._sound.take(packet)
            elif end is not None and _is_behind(packet, end.pts):
                break
        return self._sound.finish(num_rows)

    def _hear(self, packet: av.Packet) -> None:
        if not self._sound.has_started:
            if self._clock.zero is not None:
                self._sound.start(self._clock.zero)
            elif self._sound.early_bytes > MAX_EARLY_BYTES:
                self._sound.start(first_picture_seconds(self._path))
        if packet.dts is not None:
            self._clock.meet_sound(packet.dts * self._sound_time_base)
        self._sound.take(packet)


def _is_behind(packet: av.Packet, pts: int) -> bool:
    ticks = packet.pts if packet.dts is None else packet.dts
    return ticks is not None and (ticks - pts) * packet.time_base > MAX_AHEAD_SECONDS
