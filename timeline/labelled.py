"""Labelled: what came of a recording, and how it was labelled; imports no network."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timeline.durations import DEFAULT_DURATIONS, Durations
from timeline.policies import Policy
from timeline.timeline import Timeline


@dataclass(frozen=True)
class Method:
    """How recordings are labelled; a timeline is a function of it, the model and the recording."""

    quick: bool = False
    durations: Durations = DEFAULT_DURATIONS
    policy: Policy = Policy()
    embeddings: Path | None = None  # folder that keeps them: labelling again takes seconds


@dataclass(frozen=True)
class Labelled:
    """What came of a recording: its timeline, and what the model itself said."""

    timeline: Timeline
    overall: tuple[float, ...]  # probability of each class for the whole recording
    break_probabilities: np.ndarray  # (N,) float32, of ads at (k + 0.5) * hop_seconds; or empty
    hop_seconds: float
