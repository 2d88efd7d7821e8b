"""Parts: stretches of a long recording that are decoded side by side."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import av

from utils.bars import find_bars, has_lit_sides
from utils.media import (
    WHOLE,
    Cut,
    Part,
    decoded_alone,
    duration_seconds,
    opened,
    packets,
    video_stream,
)
from utils.video import MAX_KEY_DISTANCE, first_picture_seconds

if TYPE_CHECKING:
    from utils.features import FeatureSpec

MIN_SPLIT_SECONDS = 1200.0
PART_SECONDS = 600.0
MOST_MISSED = 5  # cuts in a row that are not to be had
TRIES = 4  # to find a picture without bars near each cut, before half of the part is over
# Where a file is found at a time without reading what lies before: containers of libav's names.
SPLITTABLE_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts")
# Modes that decode from one picture to the next; the others read on too fast, or by themselves.
SPLITTABLE_MODES = ("fast", "exact")


def whole_part() -> Part:
    """The part that is all of a recording."""
    return WHOLE


def split_recording(path: str | os.PathLike, spec: "FeatureSpec") -> list[Part]:
    """Returns the parts of a recording in their order: one for a short one, else one about every
    PART_SECONDS, each from one key picture to another, with one crop.

    They depend on the file and the spec alone, not on who decodes them. Nothing is decoded but the
    first picture, and those that show where there are bars. Raises MediaError.
    """
    parts = cut_recording(path, spec, PART_SECONDS, min_seconds=MIN_SPLIT_SECONDS)
    if len(parts) == 1 or not spec.crop_bars:
        return parts
    crop = find_bars(path)
    return [replace(part, crop=crop) for part in parts]


def cut_recording(
    path: str | os.PathLike,
    spec: "FeatureSpec",
    part_seconds: float,
    *,
    min_seconds: float,
    lit: bool = False,
) -> list[Part]:
    """Returns parts of about so many seconds, whose bars are not looked for; one for a recording
    that is shorter than `min_seconds` or can't be entered in the middle.

    With `lit` a part begins with a picture without bars, so that bars which are found stretch by
    stretch are those of one pass; that takes some key pictures to be decoded. Raises MediaError.
    """
    with opened(path) as container:
        stream = video_stream(container)
        seconds = duration_seconds(container, stream)
        if (
            container.format.name not in SPLITTABLE_CONTAINERS
            or spec.frames not in SPLITTABLE_MODES
            or seconds < min_seconds
        ):
            return [WHOLE]
        zero_seconds = first_picture_seconds(path)
        count = round(seconds / part_seconds)
        step_seconds = seconds / count / (2 * TRIES)
        cuts, last_seconds, last_position, num_missed = [], zero_seconds, -1, 0
        for k in range(1, count):
            due = zero_seconds + k * seconds / count
            times = [due + k * step_seconds for k in range(TRIES)] if lit else [due]
            cut = next(_cuts_near(container, times, lit=lit), None)
            if cut is None:
                num_missed += 1
                if num_missed > MOST_MISSED:  # it may say that it lasts for a day
                    return [WHOLE]
                continue
            num_missed = 0
            cut_seconds = float(cut.pts * stream.time_base)
            # Otherwise two times have one key, or the file is not in the order of its times.
            if cut_seconds > last_seconds + part_seconds / 2 and cut.position > last_position:
                cuts.append(cut)
                last_seconds, last_position = cut_seconds, cut.position
            elif lit:  # a jump makes times stand still, or go back
                return [WHOLE]
    if not cuts:
        return [WHOLE]
    starts, ends = [None, *cuts], [*cuts, None]
    return [
        Part(index, len(starts), start, end, zero_seconds)
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def parts_around(
    path: str | os.PathLike, spec: "FeatureSpec", spans: Sequence[tuple[float, float]]
) -> list[tuple[Part, float]]:
    """Returns a part that covers each of some spans of seconds since the first picture.

    Each goes from one key picture, the seconds of which are returned beside it, to another. None
    are returned where the recording can't be entered in the middle. Raises MediaError.
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


def _cuts_near(
    container: av.container.InputContainer, times: list[float], *, lit: bool = False
) -> Iterator[Cut]:
    """Yields the key packets found by going to these container times, or those of pictures that
    have no bars."""
    stream = video_stream(container)
    for seconds in times:
        try:
            container.seek(round(seconds / stream.time_base), stream=stream)
        except av.FFmpegError:
            continue
        for packet in islice(packets(container, stream), MAX_KEY_DISTANCE):
            if packet is not None and packet.is_keyframe and None not in (packet.pts, packet.pos):
                if not lit or any(map(has_lit_sides, decoded_alone(stream.codec_context, packet))):
                    yield Cut(packet.pts, packet.pos)
                break
