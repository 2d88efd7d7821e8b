"""Labelling: a recording to its timeline, every step in its order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from models.runtime import TrunkRuntime
from timeline.boundaries import snap_edges
from timeline.durations import DEFAULT_DURATIONS, Durations
from timeline.policies import Policy, apply_policy
from timeline.scoring import ScoredRecording, score_recording
from timeline.segments import find_segments
from timeline.timeline import Timeline
from utils.features import FeatureSpec

OnProgress = Callable[[float, float], None]  # seconds done, of how many


@dataclass(frozen=True)
class Classifier:
    """A trained model, how to feed it, and how to read its answers."""

    model: nn.Module
    spec: FeatureSpec
    classes: tuple[str, ...]
    clip_seconds: float
    temperature: float
    thresholds: Mapping[str, float] = field(default_factory=dict)  # from where a class is said
    identity: Mapping[str, object] = field(default_factory=dict)  # which one this is: JSON values


@dataclass(frozen=True)
class Method:
    """How recordings are labelled; a timeline is a function of it, the model and the recording."""

    quick: bool = False
    durations: Durations = DEFAULT_DURATIONS
    policy: Policy = Policy()
    embeddings: Path | None = None  # folder that keeps them: labelling again takes seconds


@dataclass(frozen=True)
class Labelled:
    """What came of a recording: its timeline, and what the model said of all of it."""

    timeline: Timeline
    probabilities: tuple[float, ...]  # of each class, over the whole recording


class Labeller:
    """Labels recordings one after the other with one model in memory."""

    def __init__(self, classifier: Classifier, method: Method):
        self._classifier = classifier
        self._method = method
        self._trunk = TrunkRuntime(classifier.model.video_encoder)

    def label(self, path: Path, on_progress: OnProgress | None = None) -> Labelled:
        """Raises MediaError where the recording can't be read."""
        classifier = self._classifier
        scored = self.score(path, on_progress)
        segments = find_segments(
            scored, classifier.classes, self._method.durations, thresholds=classifier.thresholds
        )
        segments = snap_edges(path, segments, scored, classifier.classes)
        timeline = Timeline(
            path.name,
            scored.duration_seconds,
            scored.frame_rate,
            classifier.classes,
            segments,
            has_sound=scored.has_sound,
            zero_seconds=scored.zero_seconds,
            damage=scored.damage,
            model=classifier.identity,
        )
        timeline = apply_policy(timeline, self._method.policy)
        return Labelled(timeline, tuple(np.asarray(scored.overall, float).tolist()))

    def score(self, path: Path, on_progress: OnProgress | None = None) -> ScoredRecording:
        """Probabilities over time. Raises MediaError."""
        return score_recording(
            path,
            self._classifier.model,
            self._classifier.spec,
            clip_seconds=self._classifier.clip_seconds,
            temperature=self._classifier.temperature,
            trunk=self._trunk,
            quick=self._method.quick,
            embeddings=self._method.embeddings,
            on_progress=on_progress,
        )
