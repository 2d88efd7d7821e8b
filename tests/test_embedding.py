"""Embeddings are made once for each trunk and each way to make frames."""

import numpy as np
import pytest
import torch

from models.runtime import TrunkRuntime
from tests.trainings import fill_heads, fill_norms, make_config, make_sets
from training import embedding
from training.embedding import COLUMN, MemoryStore, embed_recordings, stored_embeddings
from training.weights import TrunkWeights, new_model
from utils.config import Config
from utils.feature_store import FeatureStore
from utils.prepared_set import PreparedSet


@pytest.fixture
def config(tmp_path) -> Config:
    return make_config(tmp_path)


@pytest.fixture
def prepared(config) -> PreparedSet:
    """Four made recordings in the feature store."""
    sets = make_sets(config, counts=(2, 2))
    clips = sets.train_set.clips + sets.val_set.clips
    keys = {clip.recording: clip.key for clip in clips}
    return PreparedSet(sets.train_set.store, config.feature_spec, keys, [])


def count_frames(monkeypatch) -> list[int]:
    """Grows by the number of frames of each call of the trunk."""
    seen, embed = [], TrunkRuntime.embed

    def counting(self, frames):
        seen.append(len(frames))
        return embed(self, frames)

    monkeypatch.setattr(TrunkRuntime, "embed", counting)
    return seen


def test_embeddings_are_those_of_the_frames_in_half_precision(config, prepared):
    model = new_model(config, 2, None).eval()
    fill_norms(model.video_encoder)
    store = stored_embeddings(model, prepared, config)
    for key in prepared.keys.values():
        frames = torch.from_numpy(np.array(prepared.store.get(key, "frames")))
        with torch.inference_mode():
            expected = model.video_encoder(frames).numpy()
        found = store.get(key, COLUMN)
        assert found.std() > 0.01
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected, rtol=5e-3, atol=2e-3)


def test_second_call_does_not_run_the_trunk(config, prepared, monkeypatch):
    seen = count_frames(monkeypatch)
    model = new_model(config, 2, None)
    first = stored_embeddings(model, prepared, config)
    rows = sum(prepared.store.num_rows(key, "frames") for key in prepared.keys.values())
    assert sum(seen) == rows
    second = stored_embeddings(model, prepared, config)
    assert sum(seen) == rows
    assert second.folder == first.folder


def test_only_new_recordings_are_embedded(config, prepared, monkeypatch):
    model = new_model(config, 2, None)
    some = dict(list(prepared.keys.items())[:3])
    stored_embeddings(model, PreparedSet(prepared.store, prepared.spec, some, []), config)
    seen = count_frames(monkeypatch)
    stored_embeddings(model, prepared, config)
    last = list(prepared.keys.values())[3]
    assert sum(seen) == prepared.store.num_rows(last, "frames")


def test_each_trunk_and_each_input_has_a_folder_of_its_own(config, prepared, tmp_path):
    model = new_model(config, 2, None)
    trunk = {k: v.clone() for k, v in model.video_encoder.features.state_dict().items()}
    other_tensors = {**trunk, "0.1.running_mean": trunk["0.1.running_mean"] + 1}
    tall = make_config(tmp_path, trunk_size="48,32")
    fed = new_model(config, 2, TrunkWeights(trunk))
    models = [
        (model, config),
        (fed, config),
        (new_model(config, 2, TrunkWeights(trunk, padding="tensorflow")), config),
        (new_model(config, 2, TrunkWeights(trunk, mean=(0.5,) * 3)), config),
        (new_model(config, 2, TrunkWeights(other_tensors)), config),
        (new_model(tall, 2, TrunkWeights(trunk)), tall),
    ]
    nothing = PreparedSet(prepared.store, prepared.spec, {}, [])
    folders = {stored_embeddings(model, nothing, config).folder for model, config in models}
    assert len(folders) == len(models)
    other_frames = make_config(tmp_path, fps=3)
    nothing = PreparedSet(prepared.store, other_frames.feature_spec, {}, [])
    assert stored_embeddings(model, nothing, other_frames).folder not in folders


def test_each_precision_has_a_folder_of_its_own(config, prepared, monkeypatch):
    model = new_model(config, 2, None)
    nothing = PreparedSet(prepared.store, prepared.spec, {}, [])
    folders = set()
    for amp in (None, torch.float16, torch.bfloat16):
        monkeypatch.setattr(embedding, "amp_dtype", lambda *_, amp=amp: amp)
        folders.add(stored_embeddings(model, nothing, config).folder)
    assert len(folders) == 3


def test_embedding_stopped_in_the_middle_goes_on_with_the_next_recording(
    config, prepared, monkeypatch
):
    model = new_model(config, 2, None)
    add, added = FeatureStore.add, []

    def stopping(self, key, arrays, info):
        if len(added) == 2:
            raise KeyboardInterrupt
        add(self, key, arrays, info)
        added.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "add", stopping)
        with pytest.raises(KeyboardInterrupt):
            stored_embeddings(model, prepared, config)
    seen = count_frames(monkeypatch)
    store = stored_embeddings(model, prepared, config)
    missing = [key for key in prepared.keys.values() if key not in added]
    assert sum(seen) == sum(prepared.store.num_rows(key, "frames") for key in missing) > 0
    assert all(key in store for key in prepared.keys.values())


def test_heads_do_not_change_the_folder(config, prepared):
    model = new_model(config, 2, None)
    nothing = PreparedSet(prepared.store, prepared.spec, {}, [])
    before = stored_embeddings(model, nothing, config).folder
    fill_heads(model)
    assert stored_embeddings(model, nothing, config).folder == before


def test_blocks_of_frames_do_not_show(config, prepared, monkeypatch):
    model = new_model(config, 2, None)
    fill_norms(model.video_encoder)
    key = next(iter(prepared.keys.values()))
    stores = MemoryStore(), MemoryStore()
    embed_recordings(model.video_encoder, prepared.store, [key, key], stores[0], title=None)
    monkeypatch.setattr(embedding, "BLOCK_FRAMES", 4)
    embed_recordings(model.video_encoder, prepared.store, [key], stores[1], title=None)
    whole, blocks = (store.get(key, COLUMN) for store in stores)
    assert len(whole) == prepared.store.num_rows(key, "frames")
    np.testing.assert_allclose(blocks, whole, rtol=5e-3, atol=2e-3)


def test_memory_store_knows_what_it_holds():
    store = MemoryStore()
    store.add("a", {COLUMN: iter([np.zeros((2, 3)), np.ones((1, 3))])}, {})
    assert "a" in store
    assert "b" not in store
    assert store.get("a", COLUMN).shape == (3, 3)
    assert store.get("a", "other") is None
