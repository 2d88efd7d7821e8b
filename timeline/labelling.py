"""Labelling: a recording to its timeline, every step in its order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from timeline.boundaries import snap_edges
from timeline.classifier import Classifier
from timeline.labelled import Labelled, Method
from timeline.network import network_of
from timeline.policies import apply_policy
from timeline.scoring import ScoredRecording, score_recording
from timeline.segments import find_segments
from timeline.timeline import Segment, Timeline
from utils.labels import BREAK_LABEL

OnProgress = Callable[[float, float], None]  # seconds done, of how many


class Labeller:
    """Labels recordings one after the other with one model in memory."""

    def __init__(self, classifier: Classifier, method: Method, *, threads: int | None = None):
        self._classifier = classifier
        self._method = method
        self._network = network_of(classifier.model, threads)

    def label(self, path: Path, on_progress: OnProgress | None = None) -> Labelled:
        """Raises MediaError where the recording can't be read."""
        scored = self.score(path, on_progress)
        timeline = apply_policy(self.find(path, scored), self._method.policy)
        classes, rows = self._classifier.classes, scored.probabilities[0]
        breaks = rows[:, classes.index(BREAK_LABEL)] if BREAK_LABEL in classes else rows[:0, 0]
        overall = tuple(np.asarray(scored.overall, float).tolist())
        return Labelled(timeline, overall, breaks, scored.hop_seconds)

    def find(self, path: Path, scored: ScoredRecording) -> Timeline:
        """The timeline before any policy."""
        classifier, segments = self._classifier, self._segments(scored)
        threads = self._network.trunk.threads
        return Timeline(
            path.name,
            scored.duration_seconds,
            scored.frame_rate,
            classifier.classes,
            snap_edges(path, segments, scored, classifier.classes, threads=threads),
            has_sound=scored.has_sound,
            zero_seconds=scored.zero_seconds,
            damage=scored.damage,
            model=classifier.identity,
        )

    def score(self, path: Path, on_progress: OnProgress | None = None) -> ScoredRecording:
        """Probabilities over time. Raises MediaError."""
        return score_recording(
            path,
            self._network,
            self._classifier.spec,
            clip_seconds=self._classifier.clip_seconds,
            temperature=self._classifier.temperature,
            quick=self._starts if self._method.quick else None,
            embeddings=self._method.embeddings,
            on_progress=on_progress,
        )

    def _segments(self, scored: ScoredRecording) -> tuple[Segment, ...]:
        classifier = self._classifier
        return find_segments(
            scored, classifier.classes, self._method.durations, thresholds=classifier.thresholds
        )

    def _starts(self, scored: ScoredRecording) -> list[tuple[float, int]]:
        classes = self._classifier.classes
        return [(s.start_seconds, classes.index(s.label)) for s in self._segments(scored)]
