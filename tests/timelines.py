"""Made timelines: small ones with a known answer, and random ones to try a rule on."""

import dataclasses
import random

import numpy as np

from timeline.labelled import Labelled
from timeline.timeline import Segment, Timeline

CLASSES = ("ads", "games", "Pause; #2 = <b>Studio & Co</b>\\", "Größe, 'so'", "a --> b")
FRAME_RATES = (10.0, 23.976, 24.0, 25.0, 29.97, 50.0, 59.94)
HOP_SECONDS = 0.25


def made_timeline(*parts: tuple, **changes: object) -> Timeline:
    """A timeline of (label, seconds) or (label, seconds, confidence, unsure), one after another."""
    segments, start = [], 0.0
    for label, seconds, *rest in parts:
        confidence, unsure = rest or (0.9, False)
        segments.append(Segment(start, start + seconds, label, confidence, unsure))
        start += seconds
    classes = tuple(dict.fromkeys(["ads", "games", *(part[0] for part in parts)]))
    made = Timeline("game.ts", start, 25.0, classes, tuple(segments))
    return dataclasses.replace(made, **changes)


def timeline(*stretches: str, **changes: object) -> Timeline:
    """Of stretches such as `games 60` and `ads? 30.5`, whose mark makes one unsure."""
    parts = []
    for label, seconds in map(str.split, stretches):
        unsure = label.endswith("?")
        parts.append((label.rstrip("?"), float(seconds), 0.6 if unsure else 0.97, unsure))
    return made_timeline(*parts, **changes)


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


def random_timeline(seed: int) -> Timeline:
    """From none to 40 segments, shorter than a frame or longer than an hour, side by side."""
    choose = random.Random(seed)
    classes = CLASSES[: choose.choice([2, 2, len(CLASSES)])]
    lengths = [10 ** choose.uniform(-3, 3.7) for _ in range(choose.choice([0, 1, 2, 12, 40]))]
    parts = [
        (choose.choice(classes), length, choose.random(), choose.random() < 0.3)
        for length in lengths
    ]
    return made_timeline(
        *parts,
        classes=classes,
        frame_rate=choose.choice(FRAME_RATES),
        zero_seconds=choose.choice([0.0, 0.08, 1.4567]),
    )
