"""Timeline: what a recording shows when, as segments that cover it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from utils.damage import Damage
from utils.labels import BREAK_LABEL, REST_LABEL


@dataclass(frozen=True)
class Segment:
    """What [start_seconds, end_seconds) of a recording shows.

    `confidence` is the calibrated probability of the label, a mean over the segment. The evidence
    names what an edge was put on (timeline.boundaries), nothing where only probabilities say so.
    """

    start_seconds: float
    end_seconds: float
    label: str
    confidence: float
    unsure: bool = False
    start_evidence: tuple[str, ...] = ()
    end_evidence: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True)
class Timeline:
    """The segments of a recording in order, without gaps or overlaps.

    Times are seconds since the first picture; players count from `zero_seconds` before it.
    """

    recording: str  # file name, without its folder
    duration_seconds: float
    frame_rate: float  # average pictures a second
    classes: tuple[str, ...]
    segments: tuple[Segment, ...]
    has_sound: bool = True
    zero_seconds: float = 0.0
    damage: tuple[Damage, ...] = ()
    model: Mapping[str, object] = field(default_factory=dict)  # which one said so: JSON values

    @property
    def breaks(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.label == BREAK_LABEL)

    @property
    def kept(self) -> str:
        """The class that is the content: games, or where there is none, the first but the ads."""
        others = [name for name in self.classes if name != BREAK_LABEL]
        return REST_LABEL if REST_LABEL in others or not others else others[0]
