"""Key pictures first: the same answers near every change, at a fraction of the work."""

from pathlib import Path

import numpy as np
import pytest
import torch

import timeline.coarse
from models.array_network import ArrayNetwork
from models.late_fusion import LateFusionClassifier
from models.runtime import TrunkRuntime
from tests import media
from tests.trainings import fill_heads, fill_norms, make_config
from timeline.coarse import _spans, _wanted
from timeline.scoring import score_recording

SECONDS, CHANGE = 240.0, 100.0


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("config")).feature_spec


def draw(seconds: float, height: int, width: int) -> np.ndarray:
    """Waves, and from a moment on blocks that change every second."""
    if seconds < CHANGE:
        return media.draw_texture(seconds / 5, height, width)
    shot = np.random.default_rng(int(seconds)).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return shot.repeat(height // 4, axis=0).repeat(width // 6, axis=1)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("coarse") / "a.mp4"
    # Made in seconds: four pictures of few pixels and eight blocks of sound a second.
    options = {"g": "4", "preset": "ultrafast"}
    how = {"fps": 4, "size": (48, 96), "sample_rate": 8000, "options": options}
    return media.write_video(path, seconds=SECONDS, draw=draw, **how)


@pytest.fixture(scope="module")
def model(recording, spec) -> LateFusionClassifier:
    """A network that is sure of both halves of the recording."""
    torch.manual_seed(0)
    model = LateFusionClassifier(2, 20).eval()
    fill_heads(model)
    fill_norms(model.video_encoder)
    model.sound_head.weight.data.zero_()
    from timeline.reading import Reading, embed_recording
    from utils.video import probe

    reading = Reading(recording, spec, spec.fps, probe(recording))
    blocks = embed_recording(reading, TrunkRuntime(model.video_encoder))
    rows = torch.from_numpy(np.concatenate([b.embeddings for b in blocks]).astype(np.float32))
    spans = [rows[k : k + 20] for k in range(0, len(rows) - 20, 10)]
    pooled = torch.stack([torch.cat([span.mean(0), span.std(0)]) for span in spans])
    model.set_statistics(pooled, None)
    scaled = (pooled.clamp(min=0) + 1e-6).sqrt().sub(model.video_mean) / model.video_std
    is_first = torch.arange(len(spans)) * 10 < CHANGE * spec.fps - 20
    is_second = torch.arange(len(spans)) * 10 > CHANGE * spec.fps + 20
    direction = scaled[is_first].mean(0) - scaled[is_second].mean(0)
    middle = (scaled[is_first].mean(0) + scaled[is_second].mean(0)) / 2
    scale = 12 / direction.square().sum()
    model.video_head.weight.data = torch.stack([direction, -direction]) * scale / 2
    bias = (middle @ direction) * scale / 2
    model.sound_head.bias.data = torch.stack([-bias, bias])
    return model


def score(path, model, spec, **options):
    return score_recording(
        path, ArrayNetwork(model), spec, clip_seconds=10.0, temperature=1.0, **options
    )


def starts_of(scored) -> list[tuple[float, int]]:
    """As the model of these tests says it: the first class, then the second."""
    changes = np.flatnonzero(np.diff(scored.probabilities[0].argmax(axis=1)))
    return [(0.0, 0), *(((change + 1) * scored.hop_seconds, 1) for change in changes[:1])]


def count_frames(monkeypatch) -> list[int]:
    seen, embed = [], TrunkRuntime.embed
    monkeypatch.setattr(
        TrunkRuntime, "embed", lambda self, frames: seen.append(len(frames)) or embed(self, frames)
    )
    return seen


def test_quick_answers_are_those_of_the_full_pass_near_a_change(
    recording, model, spec, monkeypatch
):
    full = score(recording, model, spec)
    assert full.probabilities[0, 4 * 50].max() > 0.95
    assert full.probabilities[0, 4 * 180].max() > 0.95
    seen: list[float] = []
    refined = timeline.coarse._refine
    spans = []
    monkeypatch.setattr(timeline.coarse, "_refine", lambda *a: spans.extend(a[2]) or refined(*a))
    quick = score(
        recording, model, spec, quick=starts_of, on_progress=lambda a, b: seen.append(a / b)
    )
    assert len(spans) >= 1
    assert sum(end - start for start, end in spans) < SECONDS / 2
    near = slice(int(4 * (CHANGE - 3)), int(4 * (CHANGE + 3)))
    np.testing.assert_allclose(quick.probabilities[:, near], full.probabilities[:, near], atol=5e-3)
    assert quick.duration_seconds == full.duration_seconds
    labels = [scored.probabilities[0].argmax(axis=1) for scored in (quick, full)]
    np.testing.assert_array_equal(*labels)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_stream_that_jumps_is_read_in_full(tmp_path, recording, model, spec, monkeypatch):
    parts = []
    for k, start in enumerate((5000.0, 10.0)):
        path = tmp_path / f"{k}.ts"
        options = {"g": "8", "preset": "ultrafast"}
        media.write_video(
            path, seconds=40, fps=8, size=(48, 96), start_seconds=start, options=options
        )
        parts.append(path.read_bytes())
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    full, quick = (score(path, model, spec, quick=quick) for quick in (None, starts_of))
    np.testing.assert_array_equal(quick.probabilities, full.probabilities)
    assert [damage.kind for damage in quick.damage] == ["jump"]


def test_wanted_are_edges_and_what_is_in_doubt():
    sure = np.tile([0.97, 0.03], (200, 1))
    assert not _wanted(sure, [(0.0, 0)]).any()
    changed = sure.copy()
    changed[100:] = [0.03, 0.97]
    assert _spans(_wanted(changed, [(0.0, 0), (100.0, 1)]), 200.0) == [(90.0, 110.0)]
    spans = _spans(np.ones(300, bool), 299.5)  # what is decoded waits for its turn
    assert spans == [(0.0, 120.0), (120.0, 240.0), (240.0, 299.5)]
    flickers = sure.copy()
    flickers[150:153] = [0.1, 0.9]  # a spot full of sport, which no segment is made of
    assert not _wanted(flickers, [(0.0, 0)]).any()
    doubtful = sure.copy()
    doubtful[144:156] = [0.4, 0.6]
    ((start, end),) = _spans(_wanted(doubtful, [(0.0, 0)]), 200.0)
    assert start <= 145
    assert end >= 155
    assert _wanted(changed, [(0.0, 0)])[101:].all()  # whatever was decided there


def test_edge_that_moves_is_followed(recording, model, spec, monkeypatch):
    """All pictures around it may say that it is elsewhere."""
    seen, refined = [], timeline.coarse._refine
    monkeypatch.setattr(timeline.coarse, "_refine", lambda *a: seen.append(a[2]) or refined(*a))
    edges = iter([40.0, 100.0])

    def starts(scored) -> list[tuple[float, int]]:
        return [(0.0, 0), (next(edges, 100.0), 1)]

    score(recording, model, spec, quick=starts)
    near = timeline.coarse.EDGE_SECONDS
    assert any(start <= 40 - near and end >= 40 + near for start, end in seen[0])
    assert any(start <= 100 <= end for spans in seen for start, end in spans)
