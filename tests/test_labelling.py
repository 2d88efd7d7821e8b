"""A timeline comes of a recording by every step in its order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from label_recording import load_classifier
from tests.trainings import write_clip
from timeline.classifier import Classifier
from timeline.labelled import Method
from timeline.labelling import Labeller
from timeline.policies import Policy
from utils.media import MediaError


@pytest.fixture(scope="module")
def classifier(trained_run) -> Classifier:
    return load_classifier(trained_run / "best.safetensors")[0]


@pytest.fixture(scope="module")
def ad(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("ad") / "ad.mp4", "ads", 8, 20.0)


def test_timeline_says_what_it_is_of_and_who_says_it(classifier, ad):
    labelled = Labeller(classifier, Method()).label(ad)
    timeline = labelled.timeline
    assert (timeline.recording, timeline.duration_seconds) == ("ad.mp4", 20.0)
    assert timeline.frame_rate == pytest.approx(8)
    assert [segment.label for segment in timeline.segments] == ["ads"]
    assert timeline.model["sha256"] == classifier.identity["sha256"]
    assert labelled.overall[classifier.classes.index("ads")] > 0.5
    assert len(labelled.break_probabilities) * labelled.hop_seconds == 20.0
    assert np.median(labelled.break_probabilities) > 0.5


def test_policy_is_applied(classifier, ad):
    method = Method(policy=Policy(min_break_seconds=30.0))
    assert Labeller(classifier, method).label(ad).timeline.breaks == ()


def test_thresholds_decide(classifier, ad):
    strict = replace(classifier, thresholds={"ads": 1.0})
    assert Labeller(strict, Method()).label(ad).timeline.breaks == ()


def test_what_is_no_video_says_so(classifier, tmp_path):
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(MediaError):
        Labeller(classifier, Method()).label(tmp_path / "x.mp4")
