"""Recordings are embedded as they are decoded, and what was embedded can be kept."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import timeline.reading
from models.encoders import FrameEncoder
from models.runtime import TrunkRuntime
from tests import media
from tests.trainings import fill_norms, make_config, write_clip
from timeline.reading import (
    FULL_RATE_SECONDS,
    KeptEmbeddings,
    Reading,
    embed_recording,
    scoring_spec,
)
from utils.features import read_features
from utils.video import probe


@pytest.fixture(scope="module")
def trunk() -> TrunkRuntime:
    torch.manual_seed(0)
    encoder = FrameEncoder().eval()
    fill_norms(encoder)
    return TrunkRuntime(encoder)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("config")).feature_spec


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", "ads", 3, 5.0)


def reading_of(path, spec, full_fps=None) -> Reading:
    return Reading(path, spec, full_fps or spec.fps, probe(path))


def joined(blocks) -> list[np.ndarray]:
    blocks = list(blocks)
    names = ("embeddings", "shown", "mfcc", "sounding")
    return [np.concatenate([getattr(block, name) for block in blocks]) for name in names]


def test_long_recordings_are_scored_by_two_frames_a_second(spec):
    for fps, expected in ((4.0, 2.0), (6.0, 2.0), (5.0, 2.5), (2.0, 2.0), (1.0, 1.0)):
        of_fps = type(spec)(**{**spec.__dict__, "fps": fps})
        assert scoring_spec(of_fps, 3600.0).fps == expected
        assert scoring_spec(of_fps, 0.0).fps == expected  # as where the container does not say
        assert scoring_spec(of_fps, FULL_RATE_SECONDS) == of_fps


def test_embeddings_are_those_of_the_frames(clip, spec, trunk):
    embeddings, shown, mfcc, sounding = joined(embed_recording(reading_of(clip, spec), trunk))
    blocks = list(read_features(clip, spec))
    frames = np.concatenate([block.frames for block in blocks])
    np.testing.assert_allclose(embeddings, trunk.embed(frames), atol=2e-2)
    np.testing.assert_array_equal(mfcc, np.concatenate([block.mfcc for block in blocks]))
    assert shown.all()
    assert sounding.all()


@pytest.mark.parametrize(("full_rate_seconds", "expected"), [(5.0, False), (4.9, True)])
def test_bars_of_long_recordings_are_looked_for_by_stretch(
    clip, spec, trunk, monkeypatch, full_rate_seconds, expected
):
    """Also where all frames of a long one are embedded, as the network was trained on few."""
    seen = []

    def noted(*arguments, **options):
        seen.append(options["bars_by_stretch"])
        return read_features(*arguments, **options)

    monkeypatch.setattr(timeline.reading, "read_features", noted)
    monkeypatch.setattr(timeline.reading, "FULL_RATE_SECONDS", full_rate_seconds)
    joined(embed_recording(reading_of(clip, spec), trunk))
    assert seen == [expected]


def test_pictures_that_stand_still_are_embedded_once(tmp_path, spec, trunk, monkeypatch):
    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        return media.draw_time(seconds // 4, height, width)

    path = media.write_video(tmp_path / "a.mp4", seconds=12, fps=10, draw=draw)
    seen, embed = [], trunk.embed
    monkeypatch.setattr(trunk, "embed", lambda frames: seen.append(len(frames)) or embed(frames))
    embeddings, *_ = joined(embed_recording(reading_of(path, spec, full_fps=4.0), trunk))
    assert sum(seen) == 3
    assert len(embeddings) == 24
    assert [len(np.unique(embeddings[k : k + 8], axis=0)) for k in (0, 8, 16)] == [1, 1, 1]
    assert len(np.unique(embeddings, axis=0)) == 3


@pytest.fixture
def kept(tmp_path, trunk) -> KeptEmbeddings:
    return KeptEmbeddings(tmp_path / "kept", trunk)


def keep(kept, reading, trunk) -> tuple[Path, list[np.ndarray]]:
    path = kept.path_of(reading)
    return path, joined(kept.write(path, reading, embed_recording(reading, trunk)))


def test_kept_embeddings_are_what_was_read(clip, spec, trunk, kept):
    reading = reading_of(clip, spec)
    reading.damage.jump(1.0, 50.0)
    path, expected = keep(kept, reading, trunk)
    again = reading_of(clip, spec)
    found = joined(kept.read(kept.path_of(again), again))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.damage.records == reading.damage.records
    assert again.duration_seconds(10) == reading.duration_seconds(10) == pytest.approx(5.0)
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".json"] == [path.name]


def test_other_content_spec_or_trunk_is_another_file(tmp_path, clip, spec, trunk, kept):
    path = kept.path_of(reading_of(clip, spec))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    assert kept.path_of(reading_of(copy, spec)) == path
    others = [
        kept.path_of(
            reading_of(clip, scoring_spec(spec, 0.0).__class__(**{**spec.__dict__, "fps": 1.0}))
        )
    ]
    media.write_wav(tmp_path / "copy.wav", media.tone(800, 5.0, 16000), 16000)
    others.append(kept.path_of(reading_of(copy, spec)))
    encoder = FrameEncoder().eval()
    others.append(
        KeptEmbeddings(tmp_path / "kept", TrunkRuntime(encoder)).path_of(reading_of(clip, spec))
    )
    assert len({path, *others}) == 4


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "of another program"])
def test_damaged_or_half_written_file_is_none(clip, spec, trunk, kept, damage):
    path, _ = keep(kept, reading_of(clip, spec), trunk)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("info.json", json.dumps([]))
    reading = reading_of(clip, spec)
    assert kept.read(path, reading) is None
    assert reading.damage.records == ()


def test_stopped_midway_it_leaves_nothing(clip, spec, trunk, kept):
    reading = reading_of(clip, spec)
    path = kept.path_of(reading)
    blocks = kept.write(path, reading, embed_recording(reading, trunk))
    next(blocks)
    blocks.close()
    assert [p.suffix for p in path.parent.iterdir()] == [".json"]


@pytest.mark.parametrize("starts", [(0.0,), (100.0, 20.0)])
def test_lanes_say_what_one_pass_does_also_where_timestamps_jump(
    tmp_path, spec, trunk, monkeypatch, starts
):
    monkeypatch.setattr(timeline.reading, "FULL_RATE_SECONDS", 1.0)
    monkeypatch.setattr(timeline.reading, "LANE_SECONDS", 3.0)
    path = tmp_path / "a.ts"
    parts = []
    for start in starts:
        options = {"g": "10", "preset": "ultrafast"}
        media.write_video(path, seconds=6, size=(48, 96), start_seconds=start, options=options)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    readings, found = [], []
    for threads in (1, 2):
        monkeypatch.setattr(trunk, "threads", threads)
        readings.append(reading_of(path, spec))
        found.append(joined(embed_recording(readings[-1], trunk)))
    assert len(found[0][0]) == pytest.approx(6 * spec.fps * len(starts), abs=1)
    for one, lanes in zip(*found, strict=True):
        np.testing.assert_allclose(lanes, one, atol=2e-3)
    assert readings[1].damage.records == readings[0].damage.records
    assert readings[1].damage.end_seconds == pytest.approx(readings[0].damage.end_seconds)
    assert [d.kind for d in readings[1].damage.records] == ["jump"] * (len(starts) - 1)
