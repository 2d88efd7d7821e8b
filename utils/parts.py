"""Parts: stretches of a long recording that are decoded side by side."""

import os
from typing import TYPE_CHECKING

from utils.media import WHOLE, Part

if TYPE_CHECKING:
    from utils.features import FeatureSpec


def whole_part() -> Part:
    """The part that is all of a recording."""
    return WHOLE


def split_recording(path: str | os.PathLike, spec: "FeatureSpec") -> list[Part]:
    """Returns the parts of a recording in their order: one for a short one."""
    return [WHOLE]
