"""Damage: what was wrong with a recording while it was read, and where nothing is to be known."""

from collections.abc import Iterable
from dataclasses import dataclass

# A picture that stands for longer than this says nothing more of what was broadcast meanwhile,
# even where the file says that it stays: that is how a lost hour looks after remuxing to MP4.
STILL_SECONDS = 10.0
MIN_GAP_SECONDS = 2.0  # of pictures or sound: shorter ones are filled, and change no answer
NEAR_SECONDS = 5.0  # packets that can't be decoded, so close to each other, are one stretch
MAX_RECORDS = 1000


@dataclass(frozen=True)
class Damage:
    """What was wrong with a recording from a time on, in one line."""

    seconds: float
    kind: str  # "gap", "jump", "picture size", "sound layout", "no sound", "unreadable"
    description: str


class DamageLog:
    """Takes down damage as a recording is read; times are seconds since its first picture.

    `picture_gaps` and `sound_gaps` are [start, end) in which what is given out was filled in. They
    are known before the filling is given out.
    """

    def __init__(self) -> None:
        self.num_pictures = 0  # that were decoded
        self.end_seconds: float | None = None  # of the last of them
        self.picture_gaps: list[tuple[float, float]] = []
        self.sound_gaps: list[tuple[float, float]] = []
        self._records: list[Damage] = []
        self._size: tuple[int, int] | None = None
        self._layout: tuple[int, int] | None = None
        self._unreadable: dict[str, list[float]] = {}  # by what: start, end, packets

    @property
    def records(self) -> tuple[Damage, ...]:
        """All damage in the order of time."""
        for what in list(self._unreadable):
            self._close(what)
        return tuple(sorted(self._records, key=lambda damage: damage.seconds))

    def restore(self, records: Iterable[Damage], end_seconds: float | None) -> None:
        """Takes over what was noted when the recording was read before."""
        self._records += records
        self.end_seconds = end_seconds

    def jump(self, seconds: float, step_seconds: float) -> None:
        """Notes that timestamps jumped, and were taken to go on without a gap."""
        self._add(seconds, "jump", f"timestamps jump by {step_seconds:.1f} s: closed")

    def picture_gap(self, start_seconds: float, end_seconds: float) -> None:
        self.picture_gaps.append((start_seconds, end_seconds))
        lasts = end_seconds - start_seconds
        self._add(start_seconds, "gap", f"no new picture for {lasts:.1f} s")

    def sound_gap(self, start_seconds: float, end_seconds: float) -> None:
        """Notes that sound is missing; it may be missing to the end, math.inf."""
        self.sound_gaps.append((start_seconds, end_seconds))
        lasts = f"for {end_seconds - start_seconds:.1f} s" if end_seconds < 1e9 else "from here on"
        self._add(start_seconds, "no sound", f"the sound is missing {lasts}")

    def picture(self, end_seconds: float, height: int, width: int) -> None:
        """Notes a picture and its size; it is shown until `end_seconds`."""
        self.num_pictures += 1
        seconds, self.end_seconds = self.end_seconds or 0.0, end_seconds
        if self._size not in (None, (height, width)):
            old = self._size
            text = f"the picture changes from {old[1]}x{old[0]} to {width}x{height}"
            self._add(seconds, "picture size", text)
        self._size = height, width

    def sound_layout(self, seconds: float, channels: int, sample_rate: int) -> None:
        if self._layout not in (None, (channels, sample_rate)):
            old = self._layout
            text = f"the sound changes from {old[0]} x {old[1]} Hz to {channels} x {sample_rate} Hz"
            self._add(seconds, "sound layout", text)
        self._layout = channels, sample_rate

    def unreadable(self, seconds: float, what: str) -> None:
        """Notes that a packet of "pictures" or "sound" was damaged."""
        stretch = self._unreadable.get(what)
        if stretch is not None and seconds - stretch[1] > NEAR_SECONDS:
            self._close(what)
            stretch = None
        if stretch is None:
            stretch = self._unreadable[what] = [seconds, seconds, 0]
        stretch[1], stretch[2] = seconds, stretch[2] + 1

    def _close(self, what: str) -> None:
        start, end, count = self._unreadable.pop(what)
        text = f"{count} damaged packets of {what} within {end - start:.1f} s"
        self._add(start, "unreadable", text)

    def _add(self, seconds: float, kind: str, description: str) -> None:
        if len(self._records) < MAX_RECORDS:
            self._records.append(Damage(round(seconds, 3), kind, description))
