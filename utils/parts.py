"""Parts: stretches of a long recording that are decoded side by side."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.video import Crop

if TYPE_CHECKING:
    from utils.features import FeatureSpec


@dataclass(frozen=True)
class Cut:
    """The key packet at which a recording is cut: its timestamp and its place in the file."""

    pts: int
    position: int


@dataclass(frozen=True)
class Part:
    """What of a recording is decoded at a time, from one cut to the next; by default all of it."""

    index: int = 0
    count: int = 1
    start: Cut | None = None
    end: Cut | None = None
    zero_seconds: float = 0.0  # the first picture's container time
    crop: Crop | None = None  # of a recording that is cut; else it is found on the way


WHOLE = Part()


def whole_part() -> Part:
    """The part that is all of a recording."""
    return WHOLE


def split_recording(path: str | os.PathLike, spec: "FeatureSpec") -> list[Part]:
    """Returns the parts of a recording in their order: one for a short one."""
    return [WHOLE]
