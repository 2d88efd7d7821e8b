"""Cut copies: the very pictures that were to stay, each once, with the sound of their time."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media import draw_texture, draw_time, read_time, tone, write_video
from timeline.cutting import (
    cut,
    cut_path,
    plan_cut,
    timeline_chapters,
    write_chapters_into,
)
from timeline.timeline import Segment, Timeline
from utils import files
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
        shown = [
            (f.time, read_time(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)
        ]
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
        if (
            len(piece) < 640
            or is_at_join
            or not tolerance_seconds < into < 0.96 - tolerance_seconds
        ):
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


def muxed(path: Path, source: Path) -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        clones = {
            s.index: output.add_stream_from_template(s, opaque=True) for s in container.streams
        }
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
    wanted = {round(t * FPS) for t in expected_times(BREAKS)}
    assert wanted <= {round(t * FPS) for t in times}
    strays = len(times) - len(wanted)
    assert len({round(t * FPS) for t in times}) == len(times)
    assert 0 < plan.stray_seconds < 3.4
    assert plan.encoded_seconds == 0
    assert plan.may_stutter == name.startswith("open")
    if plan.may_stutter:
        assert strays - 0.01 <= plan.stray_seconds * FPS <= strays + 2 * 16
    else:
        assert times == sorted(times)
        assert plan.stray_seconds == pytest.approx(strays / FPS, abs=0.002)
        assert np.diff([time for time, _ in drawn]) == pytest.approx(1 / FPS, abs=0.0015)
    check_sound(copy.path, drawn, 0.06)


def test_ads_alone_can_be_kept(recordings, tmp_path):
    source = recordings["h264.mp4"]
    target = cut_path(source, "games", tmp_path)
    assert target.name == "closed.ads-only.mp4"
    _, copy = cut_away(source, target, "exact", drop="games")
    assert [t for _, t in pictures_of(copy.path)] == pytest.approx(
        expected_times(BREAKS, invert=True), abs=0.0015
    )


def test_fifty_joins_leave_sound_and_picture_together(tmp_path):
    breaks = [(0.4 + k, 0.8 + k) for k in range(50)]
    source = write_video(
        tmp_path / "many.mp4",
        seconds=51,
        fps=10,
        tone_hz=[300 + 25 * k for k in range(51)],
        options={"preset": "ultrafast", "g": "2", "bf": "0"},
        size=(32, 64),
    )
    timeline = timeline_of(source, breaks, 51)
    plan = plan_cut(source, timeline, drop="ads", mode="copy", suffix=".mp4")
    copy = cut(plan, tmp_path / "cut.mp4")
    drawn = pictures_of(copy.path)
    sound = np.concatenate(list(read_audio(copy.path, 16000)))
    assert len(plan.spans) == 51
    assert len(sound) / 16000 == pytest.approx(drawn[-1][0] + 0.1, abs=0.04)
    # In the last second that was kept whole the pitch changes with the picture's second.
    for time, source_time in drawn[-9:-2]:
        piece = sound[round(time * 16000) : round((time + 0.04) * 16000)]
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 16000))
        assert abs(int(np.argmax(spectrum)) - (300 + 25 * int(source_time))) < 20


def test_variable_frame_rate_keeps_its_times(tmp_path):
    times = [k / 25 for k in range(100)] + [4 + k / 10 for k in range(40)]
    source = write_video(tmp_path / "vfr.mp4", seconds=8, times=times, tone_hz=None, options=GOP)
    breaks = [(1.4, 2.0), (4.5, 6.1)]
    timeline = timeline_of(source, breaks, 8)
    plan = plan_cut(source, timeline, drop="ads", mode="exact", suffix=".mp4")
    drawn = pictures_of(cut(plan, tmp_path / "cut.mp4").path)
    expected = expected_times(breaks, times=times)
    removed = [sum(end - start for start, end in breaks if end <= t + 1e-6) for t in expected]
    assert [t for _, t in drawn] == pytest.approx(expected, abs=0.0015)
    places = [t - gone for t, gone in zip(expected, removed, strict=True)]
    assert [time for time, _ in drawn] == pytest.approx(places, abs=0.0015)


@pytest.mark.parametrize("mode", ["copy", "exact"])
def test_jumping_timestamps_are_closed(recordings, mode, tmp_path):
    source = tmp_path / "jump.ts"
    first = made(tmp_path / "a.ts", seconds=6, tone_hz=PITCHES[:6])
    second = made(
        tmp_path / "b.ts",
        start_seconds=5000,
        seconds=6,
        tone_hz=PITCHES[6:],
        draw=lambda seconds, height, width: draw_time(seconds + 6, height, width),
    )
    source.write_bytes(first.read_bytes() + second.read_bytes())
    plan, copy = cut_away(source, tmp_path / "cut.ts", mode, [(4.2, 7.28), (9.0, 10.08)])
    assert len(plan.index.jumps) == 1
    drawn = pictures_of(copy.path)
    frames = [round(t * FPS) for _, t in drawn]
    wanted = [round(t * FPS) for t in expected_times([(4.2, 7.28), (9.0, 10.08)])]
    assert frames == wanted if mode == "exact" else set(wanted) <= set(frames)
    check_sound(copy.path, drawn, 0.06)


def test_several_sound_tracks_and_subtitles_are_cut_alike(tmp_path):
    source = tmp_path / "tracks.mkv"
    write_tracks(source)
    timeline = timeline_of(source, [(2.0, 6.0)], 8)
    plan = plan_cut(source, timeline, drop="ads", mode="exact", suffix=".mkv")
    path = cut(plan, tmp_path / "cut.mkv").path
    with av.open(str(path)) as container:
        kinds = [(s.type, s.metadata.get("language")) for s in container.streams]
        assert kinds == [("video", None), ("audio", "ger"), ("audio", "eng"), ("subtitle", "fre")]
        texts = [
            (
                bytes(p),
                round(float(p.pts * p.time_base), 2),
                round(float(p.duration * p.time_base), 2),
            )
            for p in container.demux(subtitles=0)
            if p.size
        ]
        assert texts == [(b"before", 1.0, 1.0), (b"after", 2.5, 1.0)]
    for track, hertz in ((0, 400), (1, 900)):
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=track))
            sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
            rate = frames[0].sample_rate
        assert len(sound) / rate == pytest.approx(4.0, abs=0.04)
        spectrum = np.abs(np.fft.rfft(sound[: rate * 3], rate * 3))
        assert abs(np.argmax(spectrum) / 3 - hertz) < 5


def test_pcm_is_cut_to_the_sample(tmp_path):
    source = write_pcm(tmp_path / "pcm.mov")
    timeline = timeline_of(source, [(1.0, 2.52)], 4)
    plan = plan_cut(source, timeline, drop="ads", mode="exact", suffix=".mov")
    with av.open(str(cut(plan, tmp_path / "cut.mov").path)) as container:
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    ramp = np.arange(4 * 8000) % 20000
    assert np.array_equal(sound, np.concatenate([ramp[:8000], ramp[20160:]]))


def test_intra_coded_pictures_are_copied_exactly(tmp_path):
    source = write_video(
        tmp_path / "intra.mov", seconds=4, codec="mjpeg", pix_fmt="yuvj420p", options={"qmax": "3"}
    )
    timeline = timeline_of(source, [(1.0, 2.52)], 4)
    plan = plan_cut(source, timeline, drop="ads", mode="exact", suffix=".mov")
    assert plan.encoded_seconds == 0
    drawn = pictures_of(cut(plan, tmp_path / "cut.mov").path)
    assert [t for _, t in drawn] == pytest.approx(
        expected_times([(1.0, 2.52)], times=[k / FPS for k in range(100)]), abs=0.0015
    )


def test_recording_that_is_encoded_anew_says_so_beforehand(tmp_path):
    source = write_video(tmp_path / "vp9.webm", seconds=3, codec="libvpx-vp9", tone_hz=None)
    timeline = timeline_of(source, [(1.0, 1.48)], 3)
    plan = plan_cut(source, timeline, drop="ads", mode="exact", suffix=".webm")
    assert plan.encode_all
    assert any("all 3 s of pictures are encoded anew" in line for line in plan.lines)
    drawn = pictures_of(cut(plan, tmp_path / "cut.webm").path)
    assert [t for _, t in drawn] == pytest.approx(
        expected_times([(1.0, 1.48)], times=[k / FPS for k in range(75)]), abs=0.0015
    )


def test_exact_cut_encodes_only_what_is_next_to_a_cut(recordings, tmp_path):
    plan, _ = cut_away(recordings["h264.mp4"], tmp_path / "cut.mp4", "exact")
    assert 0 < plan.encoded_seconds < 3.5
    assert any("next to cuts are encoded anew, the rest is copied" in line for line in plan.lines)


def test_rotation_stays(tmp_path):
    source = made(tmp_path / "turned.mp4", seconds=4, rotation_degrees=90, tone_hz=None)
    for mode in ("copy", "exact"):
        timeline = timeline_of(source, [(1.2, 2.2)], 4)
        plan = plan_cut(source, timeline, drop="ads", mode=mode, suffix=".mp4")
        with av.open(str(cut(plan, tmp_path / f"{mode}.mp4").path)) as container:
            assert next(container.decode(video=0)).rotation == -90


def test_progress_goes_up_to_the_length(recordings, tmp_path):
    source = recordings["h264.mp4"]
    plan = plan_cut(source, timeline_of(source, BREAKS), drop="ads", mode="copy", suffix=".mp4")
    calls = []
    cut(plan, tmp_path / "cut.mp4", on_progress=lambda *seconds: calls.append(seconds))
    assert calls == sorted(calls)
    assert len(calls) >= SECONDS - 1
    assert all(done <= total == pytest.approx(SECONDS, abs=0.01) for done, total in calls)


def test_nothing_to_cut_or_nothing_left_is_an_error(recordings):
    source = recordings["h264.mp4"]
    with pytest.raises(MuxError, match="has no ads to cut"):
        plan_cut(source, timeline_of(source, []), drop="ads", mode="copy", suffix=".mp4")
    whole = timeline_of(source, [(0, SECONDS)])
    with pytest.raises(MuxError, match="nothing but ads"):
        plan_cut(source, whole, drop="ads", mode="copy", suffix=".mp4")


def test_copy_that_would_hold_all_of_a_break_is_an_error(tmp_path):
    source = made(tmp_path / "long.mp4", seconds=4, options={"g": "250", "bf": "0"}, tone_hz=None)
    with pytest.raises(MuxError, match="too far apart .* --cut-mode exact"):
        plan_cut(source, timeline_of(source, [(1, 2)], 4), drop="ads", mode="copy", suffix=".mp4")


def test_recording_and_existing_files_are_not_written_over(recordings, tmp_path):
    source = recordings["h264.mp4"]
    plan = plan_cut(source, timeline_of(source, BREAKS), drop="ads", mode="copy", suffix=".mp4")
    before = source.read_bytes()
    with pytest.raises(MuxError, match="the recording itself"):
        cut(plan, source, overwrite=True)
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    with pytest.raises(MuxError, match="the recording itself"):
        cut(plan, link, overwrite=True)
    there = tmp_path / "there.mp4"
    there.write_bytes(b"mine")
    with pytest.raises(MuxError, match="exists: pass --overwrite"):
        cut(plan, there)
    assert (there.read_bytes(), source.read_bytes()) == (b"mine", before)
    cut(plan, there, overwrite=True)
    assert len(there.read_bytes()) > 1000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_is_one_line_and_leaves_nothing(recordings, tmp_path, monkeypatch):
    source = recordings["h264.mp4"]
    plan = plan_cut(source, timeline_of(source, BREAKS), drop="ads", mode="copy", suffix=".mkv")

    def create(path: Path) -> int:
        path.symlink_to("/dev/full")  # a device that is always full
        return os.open(path, os.O_RDWR)

    monkeypatch.setattr(files, "_create_locked", create)
    with pytest.raises(MuxError, match=r"the disk is full while writing .*cut\.mkv"):
        cut(plan, tmp_path / "cut.mkv")
    assert list(tmp_path.iterdir()) == []


def test_stopped_cut_leaves_nothing(recordings, tmp_path):
    source = recordings["h264.mp4"]
    plan = plan_cut(source, timeline_of(source, BREAKS), drop="ads", mode="exact", suffix=".mkv")

    def stop(done, total):
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut(plan, tmp_path / "cut.mkv", on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_container_that_can_not_hold_a_track_names_one_that_can(tmp_path):
    source = write_pcm(tmp_path / "pcm.mov")
    timeline = timeline_of(source, [(1.0, 2.52)], 4)
    plan = plan_cut(source, timeline, drop="ads", mode="copy", suffix=".webm")
    with pytest.raises(MuxError, match=r"\.webm can't hold .* name one that ends in \.mkv"):
        cut(plan, tmp_path / "cut.webm")
    assert [path.name for path in tmp_path.iterdir()] == ["pcm.mov"]


def test_chapters_are_named_like_the_segments(recordings, tmp_path):
    source = recordings["h264.ts"]
    timeline = timeline_of(source, BREAKS)
    titles = [chapter.title for chapter in timeline_chapters(timeline)]
    assert titles == ["games", "ads", "games", "ads", "games"]
    copy = write_chapters_into(source, timeline, tmp_path)
    assert copy.path == tmp_path / "closed.mkv"
    with av.open(str(copy.path)) as container:
        found = [
            (c["metadata"]["title"], c["start"] * c["time_base"]) for c in container.chapters()
        ]
        zero = next(container.decode(video=0)).time
    assert [title for title, _ in found] == titles
    starts = [float(start) - zero for _, start in found]
    assert starts == pytest.approx([s.start_seconds for s in timeline.segments], abs=0.002)


def write_tracks(path: Path) -> None:
    """Eight seconds with two sound tracks and subtitles that reach into [2, 6)."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=FPS, options=GOP)
        video.width, video.height = 128, 72
        tracks = []
        for language, hertz in (("ger", 400), ("eng", 900)):
            track = output.add_stream("aac", rate=48000, layout="mono")
            track.metadata["language"] = language
            tracks.append((track, tone(hertz, 8, 48000)))
        texts = output.add_mux_stream("subrip")
        texts.metadata["language"] = "fre"
        for number in range(8 * FPS):
            frame = av.VideoFrame.from_ndarray(draw_time(number / FPS, 72, 128), format="rgb24")
            frame.pts = number
            output.mux(video.encode(frame))
        output.mux(video.encode())
        for track, sound in tracks:
            for start in range(0, len(sound), 1024):
                block = sound[None, start : start + 1024]
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, start
                output.mux(track.encode(frame))
            output.mux(track.encode())
        for text, start, length in ((b"before", 1, 2), (b"within", 3, 1), (b"after", 6.5, 1)):
            packet = av.Packet(text)
            packet.time_base = texts.time_base
            packet.pts = packet.dts = round(start / texts.time_base)
            packet.duration = round(length / texts.time_base)
            packet.is_keyframe = True
            packet.stream = texts
            output.mux(packet)


def write_pcm(path: Path) -> Path:
    """Four seconds with a ramp of numbers for sound."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=FPS, options=GOP)
        video.width, video.height = 128, 72
        audio = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number in range(4 * FPS):
            frame = av.VideoFrame.from_ndarray(draw_texture(number / FPS, 72, 128), format="rgb24")
            frame.pts = number
            output.mux(video.encode(frame))
            block = (np.arange(number * 320, number * 320 + 320) % 20000).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            sound.sample_rate, sound.pts = 8000, number * 320
            output.mux(audio.encode(sound))
        output.mux(video.encode())
    return path
