"""A prepared set gives the clips and the thumbnails of its recordings."""

import json
import math

import numpy as np
import pytest

from utils.audio import MfccSpec
from utils.features import FeatureSpec
from utils.prepared_set import PreparedSet, open_feature_store, write_spec
from utils.recordings import Recording, Span
from utils.upkeep import read_spec

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())
SPANS = (Span(0.0, 20.0, "games"), Span(20.0, math.inf, "ads"))
RECORDING = Recording("recordings/a.ts", ("recordings/a.ts",), SPANS, "recordings/a.ts", False)


@pytest.fixture
def prepared(tmp_path) -> PreparedSet:
    """One recording of 30 s, of which frame k is of grey k."""
    store = open_feature_store(tmp_path, SPEC)
    frames = np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None, None, None], (120, 32, 48, 3))
    with store.writing():
        store.add("key", {"frames": [frames]}, {"aspect_ratio": 16 / 9})
    return PreparedSet(store, SPEC, {RECORDING: "key"}, [])


def test_clips_carry_the_label_of_their_span(prepared):
    assert prepared.seconds(RECORDING) == 30.0
    clips = prepared.clips(10.0, 10.0)
    assert [(clip.start_seconds, clip.end_seconds, clip.label) for clip in clips] == [
        (0.0, 10.0, "games"),
        (10.0, 20.0, "games"),
        (20.0, 30.0, "ads"),
    ]
    assert {clip.key for clip in clips} == {"key"}


def test_thumbnails_are_spread_over_the_span(prepared):
    pictures = prepared.thumbnails("recordings/a.ts", 10.0, 20.0)
    assert pictures.shape == (6, 112, round(112 * 16 / 9), 3)
    assert pictures[:, 0, 0, 0].tolist() == [40, 48, 56, 63, 71, 79]


def test_store_says_of_which_spec_it_is(prepared):
    write_spec(prepared.store, SPEC)
    path = prepared.store.folder / "spec.json"
    assert json.loads(path.read_text())["frames"] == "fast"
    assert read_spec(prepared.store.folder) == SPEC
    before = path.stat().st_mtime_ns
    write_spec(prepared.store, SPEC)
    assert path.stat().st_mtime_ns == before
