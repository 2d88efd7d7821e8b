"""Recordings with planted breaks."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.planted import (
    BREAK_SECONDS,
    FRAME_RATE,
    KINDS,
    Material,
    Piece,
    Plan,
    find_materials,
    plan_recording,
    repeat_recording,
    write_broadcast,
    write_recording,
)
from tests.media import write_video
from utils.audio import read_audio
from utils.labels import Span, parse_labels
from utils.video import read_frames

SIZE = (72, 128)
GREY = {"ads": 200, "games": 90}


def materials(seconds: float = 20.0, sources: int = 3, clips: int = 5) -> list[Material]:
    return [
        Material(Path(label, f"source{s}", f"{c}.mp4"), label, f"source{s}", round(seconds * 25))
        for label in ("ads", "games")
        for s in range(sources)
        for c in range(clips)
    ]


def made(folder: Path, label: str, seconds: float) -> Material:
    """A clip of one grey; ads and games differ in pitch too."""
    path = folder / label / "source" / f"{label}{seconds:g}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    hertz = 2000 if label == "ads" else 500
    write_video(path, seconds=seconds, size=SIZE, draw=plain(GREY[label]), tone_hz=hertz)
    return Material(path, label, "source", round(seconds * FRAME_RATE))


def plain(grey: int):
    return lambda seconds, height, width: np.full((height, width, 3), grey, np.uint8)


def greys(path: Path) -> list[float]:
    """Mean grey of each picture."""
    return [float(f.mean()) for f in read_frames(path, FRAME_RATE, SIZE, mode="exact")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_no_material_comes_twice(kind, seed):
    plan = plan_recording(materials(), kind, seed)
    shown = [
        (p.material.path, f) for p in plan.pieces for f in range(p.first, p.first + p.num_frames)
    ]
    assert len(shown) == len(set(shown))
    for piece in plan.pieces:
        assert piece.first + piece.num_frames <= piece.material.num_frames
        if piece.material.label == "ads":  # spots are whole
            assert piece.num_frames == piece.material.num_frames


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_covers_the_recording_in_turns(kind):
    for seed in range(8):
        plan = plan_recording(materials(), kind, seed)
        spans = plan.spans()
        assert spans[0][0] == 0
        assert spans[-1][1] == plan.num_frames
        for before, after in zip(spans, spans[1:], strict=False):
            assert before[1] == after[0]
            assert before[2] != after[2]
        lengths = [(b - a) / FRAME_RATE for a, b, label in spans if label == "ads"]
        assert lengths
        assert max(lengths) < BREAK_SECONDS[1] + 10  # black between the spots included


def test_the_same_seed_plans_the_same_and_another_does_not():
    plans = [plan_recording(materials(), "mixed", seed) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_kinds_are_what_they_say():
    joins = {
        kind: {p.join for seed in range(4) for p in plan_recording(materials(), kind, seed).pieces}
        for kind in KINDS
    }
    assert joins["hard"] == joins["level"] == {"cut"}
    assert joins["black"] == {"cut", "black"}
    assert joins["fade"] == {"cut", "fade"}
    assert joins["mixed"] == {"cut", "black", "fade"}
    level = plan_recording(materials(), "level", 0).pieces
    gains = {
        p.material.label: {q.gain_decibels for q in level if q.material.label == p.material.label}
        for p in level
    }
    assert sorted(map(min, gains.values()))[0] < -5
    assert max(map(max, gains.values())) == 0
    assert all(p.luma_shift != 0 for p in level if p.material.label == "ads")


def test_little_material_makes_a_recording_too():
    few = [m for m in materials(8.0, 1, 2)]
    assert [span[2] for span in plan_recording(few, "hard", 1).spans()] in (
        ["games"],
        ["games", "ads"],
        ["ads", "games"],
        ["games", "ads", "games"],
    )


@pytest.mark.parametrize(
    ("join", "edges"),
    # Black of 10 pictures belongs to the break; a cross-fade of 10 is halved.
    [("cut", (2.0, 4.0)), ("black", (2.0, 4.8)), ("fade", (1.8, 3.4))],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_the_truth_is_what_the_pictures_show(tmp_path, join, edges, suffix):
    game, spot = made(tmp_path, "games", 5.0), made(tmp_path, "ads", 2.0)
    pieces = [Piece(game, 0, 50), Piece(spot, 0, 50), Piece(game, 50, 50)]
    joined = pieces[:1] + [
        replace(p, join=join, join_frames=10 * (join != "cut")) for p in pieces[1:]
    ]
    path = write_recording(Plan("made", 0, tuple(joined)), tmp_path / f"made{suffix}", size=SIZE)

    truth = parse_labels("x.edl", path.with_suffix(".edl").read_bytes())
    assert [s for s in truth if s.label == "ads"] == [Span(*edges, "ads")]
    record = json.loads(path.with_suffix(".json").read_text())
    assert parse_labels("x.json", path.with_suffix(".json").read_bytes())[1] == Span(*edges, "ads")

    seen = greys(path)
    assert len(seen) == record["duration_seconds"] * FRAME_RATE
    first, last = (round(edge * FRAME_RATE) for edge in edges)
    # The shade of games up to the first edge, or nearer to it than to that of the ads.
    assert abs(seen[first - 1] - GREY["games"]) < abs(seen[first - 1] - GREY["ads"])
    assert abs(seen[last + 1] - GREY["games"]) < abs(seen[last + 1] - GREY["ads"])
    expected = 0 if join == "black" else GREY["ads"]
    assert abs(seen[first + 1] - expected) < abs(seen[first + 1] - GREY["games"])
    assert abs(seen[last - 2] - expected) < abs(seen[last - 2] - GREY["games"])


def test_sound_changes_with_the_picture(tmp_path):
    game, spot = made(tmp_path, "games", 4.0), made(tmp_path, "ads", 2.0)
    pieces = (Piece(game, 0, 50), Piece(spot, 0, 50, gain_decibels=-20.0), Piece(game, 50, 50))
    path = write_recording(Plan("made", 0, pieces), tmp_path / "made.mp4", size=SIZE)
    sound = np.concatenate(list(read_audio(path, 16_000)))
    loudness = [
        np.abs(sound[round(a * 16_000) : round(b * 16_000)]).mean()
        for a, b in ((1.5, 1.98), (2.05, 2.5), (4.05, 4.5))
    ]
    assert loudness[1] / loudness[0] == pytest.approx(0.1, rel=0.1)
    assert loudness[2] == pytest.approx(loudness[0], rel=0.05)


def test_a_clip_without_sound_is_silent(tmp_path):
    path = tmp_path / "ads" / "a" / "silent.mp4"
    path.parent.mkdir(parents=True)
    write_video(path, seconds=2.0, size=SIZE, tone_hz=None)
    silent = Piece(Material(path, "ads", "a", 50), 0, 50)
    made_path = write_recording(
        Plan("made", 0, (silent, Piece(made(tmp_path, "games", 2.0), 0, 50))),
        tmp_path / "x.mp4",
        size=SIZE,
    )
    sound = np.concatenate(list(read_audio(made_path, 16_000)))
    assert np.abs(sound[:30_000]).max() < 1e-3
    assert np.abs(sound[33_000:]).max() > 0.1


def test_clips_are_found_by_class_and_source(tmp_path):
    made(tmp_path, "ads", 1.0)
    made(tmp_path, "games", 2.0)
    found = find_materials(tmp_path)
    assert [(m.label, m.source, m.num_frames) for m in found] == [
        ("ads", "source", 25),
        ("games", "source", 50),
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_recording_repeats_without_gaps(tmp_path, suffix):
    game = made(tmp_path, "games", 2.0)
    plan = Plan("made", 0, (Piece(game, 0, 50), Piece(made(tmp_path, "ads", 1.0), 0, 25)))
    once = write_recording(plan, tmp_path / f"once{suffix}", size=SIZE)
    repeat_recording(once, tmp_path / "long.mp4", 8.0)
    with av.open(str(tmp_path / "long.mp4")) as container:
        times = sorted(p.pts * p.time_base for p in container.demux(video=0) if p.size)
    steps = {round(float(b - a), 3) for a, b in zip(times, times[1:], strict=False)}
    assert max(steps) <= 0.1
    assert min(steps) > 0
    assert float(times[-1]) >= 7.9
    assert greys(tmp_path / "long.mp4")[80] == pytest.approx(GREY["games"], abs=8)


def test_a_broadcast_has_a_break_after_each_so_many_seconds_of_game(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.planted.GAME_EVERY_SECONDS", 4.0)
    game, ad = made(tmp_path, "games", 3.0), made(tmp_path, "ads", 2.0)
    plan = Plan("made", 0, (Piece(game, 0, 72), Piece(ad, 0, 48)))  # each of whole groups of 24
    once = write_recording(plan, tmp_path / "once.ts", size=SIZE)
    write_broadcast(once, tmp_path / "broadcast.mp4", 8.0)
    shown = np.array(greys(tmp_path / "broadcast.mp4"))
    is_ad = shown > (GREY["ads"] + GREY["games"]) / 2
    assert len(shown) == 2 * (2 * 72 + 48) + 72
    assert np.flatnonzero(np.diff(is_ad.astype(int))).tolist() == [143, 191, 335, 383]
