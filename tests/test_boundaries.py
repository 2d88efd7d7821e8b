"""Edges move to where picture and sound change, as far as the probabilities let them."""

import functools
from pathlib import Path

import numpy as np
import pytest

from tests import media
from timeline.boundaries import WINDOW_SECONDS, snap_edges
from timeline.scoring import ScoredRecording
from timeline.timeline import Damage, Segment
from utils.media import MediaError

CLASSES = ("ads", "games")
HOP = 0.25
SECONDS = 12.0
SMALL = {"size": (72, 128), "seconds": SECONDS, "options": {"preset": "veryfast", "g": "50"}}


@functools.cache
def texture(seed, height, width):
    tint = 80 * np.array([(seed >> bit & 1) * 2 - 1 for bit in range(3)])
    return 0.35 * media.draw_texture(7.3 * seed, height, width) + 83 + tint


def scene(seed, seconds, height, width):
    """(height, width, 3) float picture of a scene that gets lighter and darker; another seed (of
    eight) is another scene in other colours."""
    light = 0.97 + 0.03 * np.sin(2 * np.pi * 0.2 * seconds)
    return np.clip(light * texture(seed % 8, height, width), 0, 255)


def scenes(*cuts, blacks=(), dissolves=()):
    """A `draw` of one scene after another; black or a dissolve is (start, end)."""

    def draw(seconds, height, width):
        number = int(np.searchsorted(cuts, seconds + 1e-3, side="right"))
        picture = scene(number + 1, seconds, height, width)
        for start, end in blacks:
            if start - 1e-3 <= seconds < end - 1e-3:
                picture[:] = 0
        for start, end in dissolves:
            if start <= seconds < end:
                first = int(np.searchsorted(cuts, start, side="right")) + 1
                weight = (seconds - start) / (end - start)
                before, after = (scene(n, seconds, height, width) for n in (first, first + 1))
                picture = before + weight * (after - before)
        return picture.round().astype(np.uint8)

    return draw


def scored_as(path_seconds, *breaks, blur_seconds=4.0, damage=()):
    """What a perfect network would say with windows of `blur_seconds`."""
    centres = (np.arange(round(path_seconds / HOP)) + 0.5) * HOP
    fine = np.arange(0, path_seconds, 0.05)
    is_ad = np.any([(fine >= a) & (fine < b) for a, b in breaks], axis=0)
    ads = [is_ad[np.abs(fine - c) <= blur_seconds / 2].mean() for c in centres]
    ads = np.clip(ads, 0.02, 0.98)
    rows = np.stack([ads, 1 - ads], axis=1).astype(np.float32)
    return ScoredRecording(
        HOP, (blur_seconds,), rows[None], path_seconds, True, 25.0, damage=tuple(damage)
    )


def segments_at(*edges, first="games", end=SECONDS):
    labels = [first, *("ads" if first == "games" else "games",)] * len(edges)
    bounds = [0.0, *edges, end]
    return tuple(
        Segment(a, b, label, 0.9)
        for a, b, label in zip(bounds[:-1], bounds[1:], labels, strict=False)
    )


def edges_of(segments):
    assert segments[0].start_seconds == 0
    for before, after in zip(segments, segments[1:], strict=False):
        assert before.end_seconds == after.start_seconds
        assert before.end_evidence == after.start_evidence
        assert before.seconds > 0
        assert after.seconds > 0
    return [(s.start_seconds, s.start_evidence) for s in segments[1:]]


@pytest.mark.parametrize(("name", "off"), [("a.mp4", -2.3), ("a.mkv", 2.6), ("a.ts", 2.6)])
def test_edge_moves_to_the_cut(tmp_path, name, off):
    path = media.write_video(tmp_path / name, draw=scenes(6.2), start_seconds=3.0, **SMALL)
    scored = scored_as(SECONDS, (6.2, SECONDS))
    ((seconds, evidence),) = edges_of(snap_edges(path, segments_at(6.2 + off), scored, CLASSES))
    assert seconds == pytest.approx(6.2, abs=0.021)
    assert evidence == ("cut",)


@pytest.mark.parametrize(("first", "expected"), [("games", 6.0), ("ads", 6.6)])
def test_black_belongs_to_the_break(tmp_path, first, expected):
    draw = scenes(6.3, blacks=[(6.0, 6.6)])
    path = media.write_video(tmp_path / "a.mp4", draw=draw, **SMALL)
    ads = (6.3, SECONDS) if first == "games" else (0, 6.3)
    segments = segments_at(4.5, first=first)
    ((seconds, evidence),) = edges_of(snap_edges(path, segments, scored_as(SECONDS, ads), CLASSES))
    assert seconds == pytest.approx(expected, abs=0.021)
    assert evidence == ("black",)


def test_edge_in_a_dissolve_is_its_middle(tmp_path):
    draw = scenes(6.4, dissolves=[(6.0, 6.8)])
    path = media.write_video(tmp_path / "a.mp4", draw=draw, **SMALL)
    scored = scored_as(SECONDS, (6.4, SECONDS))
    ((seconds, evidence),) = edges_of(snap_edges(path, segments_at(8.0), scored, CLASSES))
    assert seconds == pytest.approx(6.4, abs=0.15)
    assert evidence == ("dissolve",)


CUTS = (2.0, 3.4, 4.8, 6.2, 7.6, 9.0)


@pytest.fixture(scope="module")
def many_cuts(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuts") / "a.mp4"
    return media.write_video(path, draw=scenes(*CUTS), tone_hz=None, **SMALL)


@pytest.mark.parametrize("cut", CUTS[1:-1])
def test_probabilities_choose_among_cuts(many_cuts, cut):
    scored = scored_as(SECONDS, (cut, SECONDS), blur_seconds=2.0)
    ((seconds, evidence),) = edges_of(
        snap_edges(many_cuts, segments_at(cut + 1.0), scored, CLASSES)
    )
    assert seconds == pytest.approx(cut, abs=0.021)
    assert evidence == ("cut",)


@pytest.mark.parametrize("sibling", [False, True])
def test_a_pause_chooses_among_cuts(tmp_path, sibling):
    """Where the probabilities say nothing, in the file's own sound and in a file beside it."""
    rate = 16_000
    sound = media.tone(440, SECONDS, rate)
    sound[round(4.7 * rate) : round(4.9 * rate)] = 0
    path = media.write_video(tmp_path / "a.mp4", draw=scenes(*CUTS), tone_hz=None, **SMALL)
    media.write_wav(tmp_path / "a.wav", sound, rate)
    if not sibling:
        path = with_sound(path, tmp_path / "b.mp4", sound, rate)
    flat = scored_as(SECONDS, (SECONDS, SECONDS))
    flat.probabilities[:] = 0.5
    ((seconds, evidence),) = edges_of(snap_edges(path, segments_at(6.6), flat, CLASSES))
    assert seconds == pytest.approx(4.8, abs=0.021)
    assert evidence == ("cut", "silence")


def with_sound(path: Path, target: Path, sound: np.ndarray, rate: int) -> Path:
    """The same pictures with a sound track."""
    import av

    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        audio = out.add_stream("aac", rate=rate, layout="mono")
        for start in range(0, len(sound), 1024):
            frame = av.AudioFrame.from_ndarray(
                sound[None, start : start + 1024], format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = rate, start
            out.mux(audio.encode(frame))
        out.mux(audio.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                out.mux(packet)
    return target


def test_edge_where_nothing_changes_stays(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", draw=scenes(), **SMALL)
    segments = segments_at(5.0)
    assert snap_edges(path, segments, scored_as(SECONDS, (6, SECONDS)), CLASSES) == segments


def test_edges_out_of_reach_and_between_segments_of_one_label_stay(tmp_path):
    far = 8.0 + WINDOW_SECONDS
    path = media.write_video(tmp_path / "a.mp4", draw=scenes(1.0, far), **SMALL | {"seconds": 20.0})
    scored = scored_as(20.0, (far + 1, 20.0))
    segments = (
        Segment(0, 1.2, "games", 0.9),
        Segment(1.2, far - WINDOW_SECONDS - 0.5, "games", 0.6, unsure=True),
        Segment(far - WINDOW_SECONDS - 0.5, 20.0, "ads", 0.9),
    )
    assert snap_edges(path, segments, scored, CLASSES) == segments


@pytest.mark.parametrize(("cut", "at"), [(0.6, 1.9), (SECONDS - 0.6, SECONDS - 2.1)])
def test_edges_of_the_first_and_last_second_are_found(tmp_path, cut, at):
    path = media.write_video(tmp_path / "a.mp4", draw=scenes(cut), **SMALL)
    scored = scored_as(SECONDS, (cut, SECONDS))
    ((seconds, _),) = edges_of(snap_edges(path, segments_at(at), scored, CLASSES))
    assert seconds == pytest.approx(cut, abs=0.021)


def test_no_segment_vanishes_and_edges_never_cross(tmp_path):
    """Three edges about the only cut there is: they can't all be there."""
    path = media.write_video(tmp_path / "a.mp4", draw=scenes(6.0), **SMALL)
    scored = scored_as(SECONDS, (6.0, SECONDS))
    for edges in [(5.4, 5.9, 6.6), (5.99, 6.0, 6.01), (0.1, 6.0, SECONDS - 0.1)]:
        found = edges_of(snap_edges(path, segments_at(*edges), scored, CLASSES))
        assert len(found) == 3
        assert [seconds for seconds, _ in found] == sorted(seconds for seconds, _ in found)


def test_several_threads_find_what_one_does(many_cuts):
    scored = scored_as(SECONDS, (2.0, 4.8), (7.6, 9.0), blur_seconds=1.0)
    segments = segments_at(2.4, 4.5, 7.9, 8.7)
    one, three = (snap_edges(many_cuts, segments, scored, CLASSES, threads=n) for n in (1, 3))
    assert one == three
    assert [edge for edge, _ in edges_of(one)] == pytest.approx([2.0, 4.8, 7.6, 9.0], abs=0.021)


@pytest.mark.parametrize("is_reported", [True, False])
def test_edge_behind_a_jump_of_the_timestamps_is_found(tmp_path, is_reported):
    def later(seconds, height, width):
        return scenes(2.0, 9.0)(seconds + 6.0, height, width)

    halves = {**SMALL, "seconds": 6.0, "options": {"g": "25", "preset": "veryfast"}}
    first = media.write_video(tmp_path / "1.ts", draw=scenes(2.0), start_seconds=500.0, **halves)
    second = media.write_video(tmp_path / "2.ts", draw=later, start_seconds=70.0, **halves)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    damage = [Damage(6.0, "jump", "timestamps go back")] * is_reported
    scored = scored_as(SECONDS, (2.0, 9.0), damage=damage)
    found = edges_of(snap_edges(path, segments_at(3.1, 7.8), scored, CLASSES))
    assert [seconds for seconds, _ in found] == pytest.approx([2.0, 9.0], abs=0.1)


def test_pictures_that_stand_for_long_are_no_obstacle(tmp_path):
    times = [k / 25 for k in range(300) if not 100 < k < 140 and k % 7 not in (2, 3)]
    path = media.write_video(tmp_path / "a.mp4", draw=scenes(6.2), times=times, **SMALL)
    scored = scored_as(SECONDS, (6.2, SECONDS))
    ((seconds, evidence),) = edges_of(snap_edges(path, segments_at(8.0), scored, CLASSES))
    assert seconds == pytest.approx(min(t for t in times if t >= 6.2), abs=0.01)
    assert evidence == ("cut",)


def test_damaged_bytes_move_no_edge_far(tmp_path):
    path = media.write_video(tmp_path / "a.ts", draw=scenes(6.2), **SMALL)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    scored = scored_as(SECONDS, (6.2, SECONDS))
    for _ in range(4):
        data = np.frombuffer(whole, np.uint8).copy()
        start = rng.integers(2000, len(data) - 4000)
        data[start : start + 3000] = rng.integers(0, 256, 3000)
        path.write_bytes(data.tobytes())
        ((seconds, _),) = edges_of(snap_edges(path, segments_at(7.5), scored, CLASSES))
        assert abs(seconds - 7.5) <= WINDOW_SECONDS


def test_timeline_without_edges_is_not_read(tmp_path):
    segments = segments_at()
    scored = scored_as(SECONDS, (SECONDS, SECONDS))
    assert snap_edges(tmp_path / "none.mp4", segments, scored, CLASSES) == segments


def test_recording_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        snap_edges(tmp_path / "none.mp4", segments_at(5.0), scored_as(SECONDS, (5, 9)), CLASSES)
