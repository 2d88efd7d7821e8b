"""Parts: stretches of a long recording that are decoded side by side."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import av

from utils.bars import find_bars
from utils.media import WHOLE, Cut, Part, duration_seconds, opened, packets, video_stream
from utils.video import MAX_KEY_DISTANCE, first_picture_seconds

if TYPE_CHECKING:
    from utils.features import FeatureSpec

MIN_SPLIT_SECONDS = 1200.0
PART_SECONDS = 600.0
# Where a file is found at a time without reading what lies before: containers of libav's names.
SPLITTABLE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
# Modes that decode from one picture to the next; the others read on too fast, or by themselves.
SPLITTABLE_MODES = ("fast", "exact")


def whole_part() -> Part:
    """The part that is all of a recording."""
    return WHOLE


def split_recording(path: str | os.PathLike, spec: "FeatureSpec") -> list[Part]:
    """Returns the parts of a recording in their order: one for a short one, else one about every
    PART_SECONDS, each from one key picture to another.

    They depend on the file and the spec alone, not on who decodes them. Nothing is decoded but the
    first picture, and those that show where there are bars. Raises MediaError.
    """
    with opened(path) as container:
        stream = video_stream(container)
        seconds = duration_seconds(container, stream)
        if (
            container.format.name not in SPLITTABLE_CONTAINERS
            or spec.frames not in SPLITTABLE_MODES
            or seconds < MIN_SPLIT_SECONDS
        ):
            return [WHOLE]
        zero_seconds = first_picture_seconds(path)
        count = round(seconds / PART_SECONDS)
        times = [zero_seconds + k * seconds / count for k in range(1, count)]
        cuts, last_seconds, last_position = [], zero_seconds, -1
        for cut in _cuts_near(container, times):
            cut_seconds = float(cut.pts * stream.time_base)
            # Otherwise two times have one key, or the file is not in the order of its times.
            if cut_seconds > last_seconds + PART_SECONDS / 2 and cut.position > last_position:
                cuts.append(cut)
                last_seconds, last_position = cut_seconds, cut.position
    if not cuts:
        return [WHOLE]
    crop = find_bars(path) if spec.crop_bars else None
    starts, ends = [None, *cuts], [*cuts, None]
    return [
        Part(index, len(starts), start, end, zero_seconds, crop)
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def parts_around(
    path: str | os.PathLike, spec: "FeatureSpec", spans: Sequence[tuple[float, float]]
) -> list[tuple[Part, float]]:
    """Returns a part that covers each of some spans of seconds since the first picture.

    Each goes from one key picture, the seconds of which are returned beside it, to another. None
    are returned where the recording can't be
    entered in the middle. Raises MediaError.
    """
    with opened(path) as container:
        stream = video_stream(container)
        if (
            container.format.name not in SPLITTABLE_CONTAINERS
            or spec.frames not in SPLITTABLE_MODES
        ):
            return []
        zero_seconds = first_picture_seconds(path)
        crop = find_bars(path) if spec.crop_bars else None
        parts = []
        for index, (start_seconds, end_seconds) in enumerate(spans, 1):
            start = next(_cuts_near(container, [zero_seconds + start_seconds]), None)
            if start is None:
                return []
            first_seconds = float(start.pts * stream.time_base) - zero_seconds
            if first_seconds <= 0:  # from the file's beginning, whatever its first packets are
                start, first_seconds = None, 0.0
            end = _cut_after(container, zero_seconds + end_seconds)
            part = Part(index, len(spans) + 2, start, end, zero_seconds, crop)
            parts.append((part, first_seconds))
        return parts


def _cut_after(container: av.container.InputContainer, seconds: float) -> Cut | None:
    """Returns the first key packet at or after a container time, None without one."""
    stream = video_stream(container)
    try:
        container.seek(round(seconds / stream.time_base), stream=stream)
    except av.FFmpegError:
        return None
    for packet in islice(packets(container, stream), 2 * MAX_KEY_DISTANCE):
        if packet is None or not packet.is_keyframe or None in (packet.pts, packet.pos):
            continue
        if packet.pts * stream.time_base >= seconds:
            return Cut(packet.pts, packet.pos)
    return None


def _cuts_near(container: av.container.InputContainer, times: list[float]) -> Iterator[Cut]:
    """Yields the key packets found by going to these container times."""
    stream = video_stream(container)
    for seconds in times:
        try:
            container.seek(round(seconds / stream.time_base), stream=stream)
        except av.FFmpegError:
            continue
        for packet in islice(packets(container, stream), MAX_KEY_DISTANCE):
            if packet is not None and packet.is_keyframe and None not in (packet.pts, packet.pos):
                yield Cut(packet.pts, packet.pos)
                break
