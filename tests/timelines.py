"""Made timelines, in a few words."""

import numpy as np

from timeline.labelling import Labelled
from timeline.timeline import Segment, Timeline

HOP_SECONDS = 0.25


def timeline(*stretches: str, recording: str = "game.ts", **how) -> Timeline:
    """Of stretches such as `games 60` and `ads? 30.5`, whose mark makes one unsure."""
    segments, start = [], 0.0
    for stretch in stretches:
        label, seconds = stretch.split()
        end = start + float(seconds)
        unsure = label.endswith("?")
        confidence = 0.6 if unsure else 0.97
        segments.append(Segment(start, end, label.rstrip("?"), confidence, unsure=unsure))
        start = end
    classes = tuple(dict.fromkeys(["ads", "games", *(segment.label for segment in segments)]))
    return Timeline(recording, start, 25.0, classes, tuple(segments), **how)


def labelled(of: Timeline) -> Labelled:
    """What a model would have said that is always as sure as each segment."""
    times = (np.arange(round(of.duration_seconds / HOP_SECONDS)) + 0.5) * HOP_SECONDS
    rows = np.zeros(len(times), np.float32)
    for segment in of.segments:
        inside = (times >= segment.start_seconds) & (times < segment.end_seconds)
        is_break = segment.label == "ads"
        rows[inside] = segment.confidence if is_break else 1 - segment.confidence
    share = float(rows.mean())
    others = [(1 - share) / (len(of.classes) - 1)] * (len(of.classes) - 1)
    return Labelled(of, (share, *others), rows, HOP_SECONDS)
