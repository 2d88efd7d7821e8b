"""Damage: what was wrong with a recording while it was read, and where nothing is to be known."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
        self._first_size: tuple[int, int] | None = None
        self._size: tuple[int, int] | None = None
        self._layout: tuple[int, int] | None = None
        self._unreadable: list[_Unreadable] = []

    @property
    def records(self) -> tuple[Damage, ...]:
        """All damage in the order of time."""
        records = [*self._records, *(stretch.damage() for stretch in self._unreadable)]
        return tuple(sorted(records, key=lambda damage: damage.seconds)[:MAX_RECORDS])

    def restore(self, records: Iterable[Damage], end_seconds: float | None) -> None:
        """Takes over what was noted when the recording was read before."""
        self._records += records
        self.end_seconds = end_seconds

    def of_part(self) -> "DamageLog":
        """One for a part of the recording that is read beside others; its gaps are known here at
        once, all else when it is taken over."""
        log = DamageLog()
        log.picture_gaps, log.sound_gaps = self.picture_gaps, self.sound_gaps
        return log

    def take_over(self, part: "DamageLog") -> None:
        """Goes on with what was noted of the next part, as if it had been noted here."""
        if part._first_size is not None:
            self._note_size(part._first_size)
            self._size = part._size
        self._records += part._records[: MAX_RECORDS - len(self._records)]
        for stretch in part._unreadable:
            self._add_unreadable(stretch)
        self.num_pictures += part.num_pictures
        self.end_seconds = self.end_seconds if part.end_seconds is None else part.end_seconds

    def clear(self) -> None:
        """Forgets everything: the recording is read anew."""
        self.__init__()

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
        self._note_size((height, width))
        self.end_seconds = end_seconds

    def sound_layout(self, seconds: float, channels: int, sample_rate: int) -> None:
        if self._layout not in (None, (channels, sample_rate)):
            old = self._layout
            text = f"the sound changes from {old[0]} x {old[1]} Hz to {channels} x {sample_rate} Hz"
            self._add(seconds, "sound layout", text)
        self._layout = channels, sample_rate

    def unreadable(self, seconds: float, what: str) -> None:
        """Notes that a packet of "pictures" or "sound" was damaged."""
        self._add_unreadable(_Unreadable(what, seconds, seconds, 1))

    def _add_unreadable(self, new: "_Unreadable") -> None:
        """Adds damaged packets to the last stretch of theirs, if that is near."""
        last = next((old for old in reversed(self._unreadable) if old.what == new.what), None)
        if last is not None and new.start_seconds - last.end_seconds <= NEAR_SECONDS:
            last.end_seconds = new.end_seconds
            last.num_packets += new.num_packets
        elif len(self._unreadable) < MAX_RECORDS:
            self._unreadable.append(replace(new))

    def _note_size(self, size: tuple[int, int]) -> None:
        if self._size not in (None, size):
            (old_height, old_width), (height, width) = self._size, size
            text = f"the picture changes from {old_width}x{old_height} to {width}x{height}"
            self._add(self.end_seconds or 0.0, "picture size", text)
        self._first_size = self._first_size or size
        self._size = size

    def _add(self, seconds: float, kind: str, description: str) -> None:
        if len(self._records) < MAX_RECORDS:
            self._records.append(Damage(round(seconds, 3), kind, description))


@dataclass
class _Unreadable:
    """Packets near each other that could not be decoded."""

    what: str  # "pictures", "sound"
    start_seconds: float
    end_seconds: float
    num_packets: int

    def damage(self) -> Damage:
        lasts = self.end_seconds - self.start_seconds
        text = f"{self.num_packets} damaged packets of {self.what} within {lasts:.1f} s"
        return Damage(round(self.start_seconds, 3), "unreadable", text)
