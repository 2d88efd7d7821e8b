"""Cut copies: the very pictures that were to stay, each once, with the sound of their time."""

import errno
import os
from pathlib import Path

import av
import numpy as np
import pytest
from media import draw_texture, draw_time, read_time, tone, write_video

from timeline.cutting import (
    cut,
    cut_path,
    plan_cut,
    timeline_chapters,
    write_chapters_into,
)
from timeline.timeline import Segment, Timeline
from utils.audio import read_audio
from utils.muxing import MuxError

FPS = 25
SECONDS = 12
PITCHES = [300 + 100 * second for second in range(SECONDS)]  # hertz, each for a second
GOP = {"preset": "veryfast", "g": "25", "bf": "3", "sc_threshold": "0"}
OPEN_GOP = {**GOP, "x264-params": "open-gop=1"}
BREAKS = [(2.28, 4.52), (7.0, 9.4)]


def timeline_of(path: Path, breaks, seconds: float = SECONDS) -> Timeline:
    segments, at = [], 0.0
    for start, end in breaks:
        if start > at:
            segments.append(Segment(at, start, "games", 0.9))
        segments.append(Segment(start, end, "ads", 0.9))
        at = end
    if at < seconds:
        segments.append(Segment(at, seconds, "games", 0.9))
    return Timeline(path.name, seconds, FPS, ("ads", "games"), tuple(segments))


def pictures_of(path: Path) -> list[tuple[float, float]]:
    """The time of showing of each picture, since the first, and the time that is drawn on it."""
    with av.open(str(path)) as container:
        shown = [(f.time, read_time(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    return [(time - shown[0][0], drawn) for time, drawn in shown]


def expected_times(breaks, *, invert: bool = False, times=None) -> list[float]:
    times = times if times is not None else [k / FPS for k in range(SECONDS * FPS)]
    is_ad = [any(start - 1e-6 <= t < end - 1e-6 for start, end in breaks) for t in times]
    return [t for t, ad in zip(times, is_ad, strict=True) if ad == invert]


def check_sound(path: Path, drawn: list[tuple[float, float]], tolerance_seconds: float) -> None:
    """Every 40 ms of sound has the pitch of the picture it belongs to, but next to a change."""
    sound = np.concatenate(list(read_audio(path, 16000)))
    assert len(sound) / 16000 == pytest.approx(drawn[-1][0] + 1 / FPS, abs=0.06)
    checked = 0
    for time, source in drawn:
        piece = sound[round(time * 16000) : round((time + 0.04) * 16000)]
        into = source % 1
        near = [other for at, other in drawn if abs(at - time) < tolerance_seconds + 0.04]
        is_at_join = np.ptp(near) > 2 * tolerance_seconds + 0.2
        if len(piece) < 640 or is_at_join or not tolerance_seconds < into < 0.96 - tolerance_seconds:
            continue
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 16000))
        assert abs(int(np.argmax(spectrum)) - PITCHES[int(source)]) < 30, f"at {time:.2f} s"
        checked += 1
    assert checked > len(drawn) / 2


def made(path: Path, **arguments) -> Path:
    arguments = {"seconds": SECONDS, "tone_hz": PITCHES, "options": GOP, **arguments}
    return write_video(path, **arguments)


def cut_away(source: Path, target: Path, mode: str, breaks=BREAKS, drop: str = "ads"):
    timeline = timeline_of(source, breaks)
    plan = plan_cut(source, timeline, drop=drop, mode=mode, suffix=target.suffix)
    return plan, cut(plan, target)


def muxed(path: Path, source: Path, format_name: str | None = None) -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as container, av.open(str(path), "w", format=format_name) as output:
        clones = {s.index: output.add_stream_from_template(s, opaque=True) for s in container.streams}
        for packet in container.demux():
            if packet.size:
                packet.stream = clones[packet.stream_index]
                output.mux(packet)
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recordings")
    mp4 = made(folder / "closed.mp4")
    opened = made(folder / "open.mp4", options=OPEN_GOP)
    mpeg2 = {"g": "15", "bf": "2", "b": "3000000", "sc_threshold": "1000000000"}
    return {
        "h264.mp4": mp4,
        "h264.mkv": muxed(folder / "closed.mkv", mp4),
        "h264.ts": muxed(folder / "closed.ts", mp4),
        "open.mp4": opened,
        "open.ts": muxed(folder / "open.ts", opened),
        "mpeg2.ts": made(folder / "mpeg2.ts", codec="mpeg2video", options=mpeg2),
        "hevc.mkv": made(
            folder / "hevc.mkv",
            codec="libx265",
            options={"preset": "ultrafast", "x265-params": "keyint=25:bframes=3:log-level=none"},
        ),
        "mpeg4.avi": made(folder / "mpeg4.avi", codec="mpeg4", options={"g": "12"}),
    }


SOURCES = ["h264.mp4", "h264.mkv", "h264.ts", "open.mp4", "open.ts", "mpeg2.ts", "hevc.mkv"]
SOURCES += ["mpeg4.avi"]


@pytest.mark.parametrize("name", SOURCES)
def test_exact_cut_has_every_picture_that_stays_once_and_no_other(recordings, name, tmp_path):
    source = recordings[name]
    plan, copy = cut_away(source, tmp_path / cut_path(source, "ads").name, "exact")
    drawn = pictures_of(copy.path)
    assert [t for _, t in drawn] == pytest.approx(expected_times(BREAKS), abs=0.0015)
    steps = np.diff([time for time, _ in drawn])
    assert steps == pytest.approx(np.full(len(steps), 1 / FPS), abs=0.0015)
    check_sound(copy.path, drawn, 0.06)
    assert plan.encode_all == (name in ("mpeg4.avi",))
    assert plan.kept_seconds == pytest.approx(len(drawn) / FPS, abs=0.002)


@pytest.mark.parametrize("name", SOURCES)
def test_copy_keeps_every_picture_of_the_game_and_says_how_much_of_the_ads(
    recordings, name, tmp_path
):
    source = recordings[name]
    plan, copy = cut_away(source, tmp_path / cut_path(source, "ads").name, "copy")
    drawn = pictures_of(copy.path)
    times = [t for _, t in drawn]
    assert times == sorted(times)
    assert len({round(t * FPS) for t in times}) == len(times)
    wanted = {round(t * FPS) for t in expected_times(BREAKS)}
    assert wanted <= {round(t * FPS) for t in times}
    strays = len(times) - len(wanted)
    assert plan.stray_seconds == pytest.approx(strays / FPS, abs=0.002)
    assert 0 < plan.stray_seconds < 2.4
    assert plan.encoded_seconds == 0
    assert np.diff([time for time, _ in drawn]) == pytest.approx(1 / FPS, abs=0.0015)
    check_sound(copy.path, drawn, 0.06)
