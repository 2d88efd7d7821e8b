"""Embeddings: those of the model, whatever else is embedded with them, and a store kept up."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.encoders import FrameEncoder
from models.late_fusion import LateFusionClassifier
from search.clip_store import open_clip_store
from search.embedder import ClipEmbedder, TrunkModel
from search.embeddings import (
    Changes,
    embed_clips,
    model_version,
    plan_clips,
    storable,
    store_clips,
)
from tests.test_clip_store import make_clip
from tests.trainings import fill_heads, fill_norms, make_config
from utils.features import FeatureSpec
from utils.labels import Span
from utils.prepared_set import PreparedSet, open_feature_store
from utils.recordings import Recording

SECONDS = 12.0


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> FeatureSpec:
    return make_config(tmp_path_factory.mktemp("config")).feature_spec


@pytest.fixture(scope="module")
def model() -> LateFusionClassifier:
    torch.manual_seed(0)
    model = LateFusionClassifier(2, 20)
    fill_norms(model.video_encoder)
    fill_heads(model)
    return model.eval()


@pytest.fixture
def prepared(tmp_path, spec) -> PreparedSet:
    """Two recordings of random frames: ads that become a game, and one of no class or sound."""
    store, rng, keys = open_feature_store(tmp_path / "cache", spec), np.random.default_rng(0), {}
    labelled = (Span(0.0, 5.0, "ads"), Span(5.0, 8.0, "games"))
    with store.writing():
        for name, spans, sound in (("ads/a.mp4", labelled, True), ("b.mp4", (), False)):
            frames = rng.integers(0, 256, (spec.frame_span(0, SECONDS).stop, *spec.frame_shape))
            mfcc = rng.normal(0, 10, (spec.mfcc_span(0, SECONDS).stop, spec.mfcc.n_mfcc))
            columns = {
                "frames": [frames.astype(np.uint8)],
                "picture_hashes": [np.arange(len(frames), dtype=np.uint64)],
            }
            if sound:
                columns["mfcc"] = [mfcc.astype(np.float16)]
            store.add(f"key of {name}", columns, {"aspect_ratio": 1.5})
            keys[Recording(name, (name,), spans, "channel", False)] = f"key of {name}"
    return PreparedSet(store, spec, keys, [])


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MONGODB_URL", raising=False)
    with open_clip_store(cache_dir=tmp_path) as store:
        yield store


def plan(prepared: PreparedSet, version: str = "m", **more) -> list:
    return list(plan_clips(prepared, version, clip_seconds=4.0, hop_seconds=2.0, **more))


def test_vector_is_what_the_last_layer_is_given(model, spec, prepared):
    frames = prepared.store.get("key of ads/a.mp4", "frames")
    mfcc = prepared.store.get("key of ads/a.mp4", "mfcc")
    (vector,) = ClipEmbedder(model, spec, "m").embed(frames, mfcc, [(2.0, 6.0)])
    part = torch.from_numpy(np.array(frames[spec.frame_span(2, 6)]))[None]
    sound = torch.from_numpy(np.array(mfcc[spec.mfcc_span(2, 6)]))[None].float()
    with torch.inference_mode():
        expected = model.forward_features(
            part, torch.ones(part.shape[:2], dtype=bool), sound,
            torch.ones(sound.shape[:2], dtype=bool),
        )[0].numpy()  # fmt: skip
    assert vector.shape == expected.shape
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert vector @ expected / np.linalg.norm(expected) == pytest.approx(1, abs=1e-3)


def test_vector_does_not_hang_on_what_is_embedded_with_it(model, spec, prepared):
    frames = prepared.store.get("key of ads/a.mp4", "frames")
    mfcc = prepared.store.get("key of ads/a.mp4", "mfcc")
    embedder = ClipEmbedder(model, spec, "m")
    spans = [(float(start), float(start) + length) for start in range(6) for length in (2.0, 6.0)]
    together = embedder.embed(frames, mfcc, spans)
    alone = [embedder.embed(frames, mfcc, [span])[0] for span in spans]
    np.testing.assert_allclose(together, alone, atol=2e-3)


def test_sound_counts_where_there_is_some(model, spec, prepared):
    frames = prepared.store.get("key of ads/a.mp4", "frames")
    mfcc = prepared.store.get("key of ads/a.mp4", "mfcc")
    embedder = ClipEmbedder(model, spec, "m")
    heard, silent = (embedder.embed(frames, sound, [(0.0, 4.0)])[0] for sound in (mfcc, None))
    assert not np.allclose(heard, silent, atol=1e-3)


def test_trunk_alone_gives_mean_and_deviation(model, spec, prepared):
    frames = prepared.store.get("key of b.mp4", "frames")
    trunk = model.video_encoder
    (vector,) = ClipEmbedder(TrunkModel(trunk), spec).embed(frames, None, [(0.0, 5.0)])
    with torch.inference_mode():
        rows = trunk(torch.from_numpy(np.array(frames[spec.frame_span(0, 5)]))).numpy()
    expected = np.concatenate([rows.mean(axis=0), rows.std(axis=0, ddof=1)])
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-3)


def test_version_changes_with_weights_and_features(spec, tmp_path):
    torch.manual_seed(0)
    one, other = TrunkModel(FrameEncoder()), TrunkModel(FrameEncoder())
    versions = {
        ClipEmbedder(one, spec).version,
        ClipEmbedder(other, spec).version,
        ClipEmbedder(one, replace(spec, fps=3.0)).version,
    }
    assert len(versions) == 3
    assert ClipEmbedder(one, spec).version in versions
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"weights")
    assert model_version(path) == hashlib.sha256(b"weights").hexdigest()[:16]


def test_clips_cover_all_of_every_recording_and_know_their_label(prepared):
    clips = plan(prepared, name_of=lambda recording: f"place/{recording.name}")
    first = [clip for clip in clips if clip.recording == "place/ads/a.mp4"]
    spans = [(clip.start_seconds, clip.end_seconds) for clip in first]
    assert spans == [(0, 4), (2, 6), (4, 8), (6, 10), (8, 12)]
    assert [clip.label for clip in first] == ["ads", "ads", "games", None, None]
    assert {clip.label for clip in clips if clip.recording == "place/b.mp4"} == {None}
    assert len({clip.id for clip in clips}) == len(clips) == 10
    assert math.isclose(max(clip.end_seconds for clip in clips), SECONDS)


def test_embedded_clips_are_the_planned_ones_with_vectors(model, spec, prepared):
    embedder, told = ClipEmbedder(model, spec, "m"), []
    clips = list(embed_clips(embedder, prepared.store, plan(prepared), report=told.append))
    assert [clip.id for clip in clips] == [clip.id for clip in plan(prepared)]
    assert len({clip.vector.tobytes() for clip in clips}) == 10
    assert sum(told) == 2 * spec.frame_span(0, SECONDS).stop


def test_store_is_brought_to_the_plan_and_no_further(model, spec, prepared, store):
    embedder = ClipEmbedder(model, spec, "m")
    store.put([make_clip(0, model="m", recording="ads/a.mp4"), make_clip(1, model="m")])
    first = store_clips(store, embedder, prepared.store, plan(prepared))
    assert first == Changes(embedded=10, deleted=1)  # of another plan for the same recording
    state = store.state()
    assert store_clips(store, embedder, prepared.store, plan(prepared)) == Changes(kept=10)
    assert store.state() == state
    assert store.count() == 11  # what is not planned is not touched


def test_new_label_needs_no_new_vector(model, spec, prepared, store, monkeypatch):
    embedder = ClipEmbedder(model, spec, "m")
    store_clips(store, embedder, prepared.store, plan(prepared))
    (first, key), *rest = prepared.keys.items()
    keys = {replace(first, spans=(Span(0.0, 20.0, "games"),)): key, **dict(rest)}
    monkeypatch.setattr(embedder, "embed", None)
    relabelled = plan(replace(prepared, keys=keys))
    changes = store_clips(store, embedder, prepared.store, relabelled)
    assert changes == Changes(relabelled=4, kept=6)
    assert {clip.label for clip in store.find(recording="ads/a.mp4")} == {"games"}
    assert all(len(clip.vector) for clip in store.find())


def test_interrupted_storing_goes_on(model, spec, prepared, store, monkeypatch):
    embedder, put = ClipEmbedder(model, spec, "m"), store.put

    def put_once(clips) -> int:
        monkeypatch.setattr(store, "put", stop)
        return put(clips)

    def stop(clips) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "put", put_once)
    with pytest.raises(KeyboardInterrupt):
        store_clips(store, embedder, prepared.store, plan(prepared))
    monkeypatch.setattr(store, "put", put)
    assert store_clips(store, embedder, prepared.store, plan(prepared)) == Changes(5, 0, 5, 0)


def test_names_of_any_bytes_can_be_stored():
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    assert storable(name) == "caf\\xe9.mp4"
    assert storable("café.mp4") == "café.mp4"
