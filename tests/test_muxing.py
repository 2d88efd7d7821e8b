"""Copies with chapters: every packet as it was, with all that the file said of itself."""

import hashlib
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.media import draw_time, tone, write_video
from utils.muxing import Chapter, MuxError, check_output, copy_with_chapters, takes, writing

CHAPTERS = [Chapter(0, 1.2, "Games 1"), Chapter(1.2, 2.0, "Ads 1"), Chapter(2.0, 3.0, "Größe")]


def packets_of(path: Path) -> dict[str, list]:
    """Digest, time and key flag of each packet, by track."""
    found = defaultdict(list)
    with av.open(str(path)) as container:
        tracks = [s for s in container.streams if s.type != "attachment"]
        for packet in container.demux(tracks):
            if packet.size and packet.stream.name != "bin_data":
                digest = hashlib.sha256(bytes(packet)).hexdigest()
                time = round(float(packet.pts * packet.time_base), 3)
                found[packet.stream.index].append((digest, time, packet.is_keyframe))
    return dict(found)


def chapters_in(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as container:
        return [
            (
                float(c["start"] * c["time_base"]),
                float(c["end"] * c["time_base"]),
                c["metadata"]["title"],
            )
            for c in container.chapters()
        ]


def write_full(path: Path, *, attach: bool = False) -> Path:
    """Three seconds with two languages of sound, subtitles, chapters, a title, odd pixels, a turn
    and HDR's colours."""
    with av.open(str(path), "w") as output:
        output.metadata.update({"title": "Final", "comment": "taped"})
        video = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "25"})
        video.width, video.height = 128, 72
        video.codec_context.sample_aspect_ratio = Fraction(64, 45)
        video.codec_context.color_primaries = 9  # BT.2020
        video.codec_context.color_trc = 16  # PQ
        video.codec_context.colorspace = 9
        video.set_display_rotation(90)
        tracks = []
        for language in ("ger", "eng"):
            track = output.add_stream("aac", rate=48000, layout="mono")
            track.metadata["language"] = language
            tracks.append(track)
        tracks[0].disposition = av.stream.Disposition(0)
        tracks[1].disposition = av.stream.Disposition.default
        texts = output.add_mux_stream("subrip" if path.suffix == ".mkv" else "mov_text")
        if attach:
            output.add_attachment("font.ttf", "font/ttf", b"letters" * 100)
        chapter = {"id": 1, "start": 0, "end": 1, "time_base": Fraction(1), "metadata": {}}
        output.set_chapters([{**chapter, "metadata": {"title": "old"}}])
        for number in range(75):
            frame = av.VideoFrame.from_ndarray(draw_time(number / 25, 72, 128), format="rgb24")
            frame.pts = number
            output.mux(video.encode(frame))
        output.mux(video.encode())
        sound = tone(440, 3, 48000)[None]
        for track in tracks:
            for start in range(0, sound.shape[1], 1024):
                block = sound[:, start : start + 1024]
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, start
                output.mux(track.encode(frame))
            output.mux(track.encode())
        text = b"Hello" if path.suffix == ".mkv" else b"\x00\x05Hello"
        packet = av.Packet(text)
        packet.time_base = texts.time_base
        packet.pts = packet.dts = round(1 / texts.time_base)
        packet.duration = round(1 / texts.time_base)
        packet.is_keyframe = True
        packet.stream = texts
        output.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_copy_has_the_same_packets_and_new_chapters(suffix, tmp_path):
    source = write_full(tmp_path / f"full{suffix}", attach=suffix == ".mkv")
    copy = copy_with_chapters(source, tmp_path / f"copy{suffix}", CHAPTERS)
    assert copy.notes == ("its 1 chapters were replaced",)
    before, after = packets_of(source), packets_of(copy.path)
    assert len(before) == 4
    assert after == before
    found = chapters_in(copy.path)
    assert [title for *_, title in found] == [chapter.title for chapter in CHAPTERS]
    with av.open(str(copy.path)) as container:
        zero = next(container.decode(video=0)).time
    for (start, end, _), chapter in zip(found, CHAPTERS, strict=True):
        assert start - zero == pytest.approx(chapter.start_seconds, abs=0.002)
        assert end - zero == pytest.approx(chapter.end_seconds, abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_copy_says_of_itself_what_the_recording_said(suffix, tmp_path):
    source = write_full(tmp_path / f"full{suffix}", attach=suffix == ".mkv")
    copy = copy_with_chapters(source, tmp_path / f"copy{suffix}", CHAPTERS)

    def said(path: Path) -> dict:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            frame = next(container.decode(video))
            context = video.codec_context
            return {
                "title": {k: container.metadata.get(k) for k in ("title", "comment", "COMMENT")},
                "tracks": [
                    (s.type, s.name, s.metadata.get("language"), s.disposition, s.time_base)
                    for s in container.streams
                    if s.name != "bin_data"
                ],
                "turn": frame.rotation,
                "pixels": video.sample_aspect_ratio,
                "rate": video.average_rate,
                "tag": context.codec_tag,
                "colours": (context.color_primaries, context.color_trc, context.colorspace),
                "attached": [s.data for s in container.streams if s.type == "attachment"],
            }

    before = said(source)
    assert before["turn"] == 90
    assert before["pixels"] == Fraction(64, 45)
    assert before["colours"] == (9, 16, 9)
    assert said(copy.path) == before


def test_transport_stream_becomes_matroska_that_counts_from_zero(tmp_path):
    source = write_video(tmp_path / "tv.ts", start_seconds=4000, seconds=3)
    copy = copy_with_chapters(source, tmp_path / "tv.mkv", CHAPTERS)
    for kind in ("video", "audio"):  # packets are framed otherwise, what they decode to is the same
        decoded = []
        for path in (source, copy.path):
            with av.open(str(path)) as container:
                frames = container.decode(container.streams.best(kind))
                decoded.append([hashlib.sha256(f.to_ndarray()).hexdigest() for f in frames])
        assert len(decoded[0]) > 70
        assert decoded[0] == decoded[1]
    with av.open(str(copy.path)) as container:
        zero = next(container.decode(video=0)).time
    assert 0 <= zero < 0.1
    assert [start - zero for start, *_ in chapters_in(copy.path)] == pytest.approx(
        [chapter.start_seconds for chapter in CHAPTERS], abs=0.002
    )


def test_container_without_chapters_is_refused(tmp_path):
    source = write_video(tmp_path / "tv.ts", seconds=1)
    with pytest.raises(MuxError, match=r"\.ts files have no chapters: name one ending in"):
        copy_with_chapters(source, tmp_path / "copy.ts", CHAPTERS)


def test_reordered_avi_is_refused(tmp_path):
    source = write_video(tmp_path / "old.avi", seconds=1, codec="mpeg4", options={"bf": "2"})
    with pytest.raises(MuxError, match="stored in another order than shown"):
        copy_with_chapters(source, tmp_path / "copy.mkv", CHAPTERS)
    assert not (tmp_path / "copy.mkv").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", "has no suffix of a video that we write"),
        ("folder.mp4", "is a folder"),
        ("none/out.mp4", "is no folder: make it first"),
        ("there.mp4", "exists: pass --overwrite"),
    ],
)
def test_output_that_can_not_be_is_refused_at_once(name, message, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "there.mp4").write_bytes(b"")
    with pytest.raises(MuxError, match=message):
        check_output(tmp_path / name, [], overwrite=False)


def test_file_that_fails_midway_leaves_the_old_one(tmp_path):
    path = tmp_path / "out.mkv"
    path.write_bytes(b"old")

    def fail() -> None:
        with writing(path) as output:
            output.add_stream("libx264", rate=25)
            output.start_encoding()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mkv"]
    assert path.read_bytes() == b"old"


def test_what_a_container_takes_is_tried(tmp_path):
    source = write_full(tmp_path / "full.mkv")
    with av.open(str(source)) as container:
        by_type = {stream.type: stream for stream in container.streams}
        assert takes(by_type["video"], ".mp4")
        assert not takes(by_type["video"], ".webm")
        assert not takes(by_type["subtitle"], ".mp4")
        assert takes(by_type["subtitle"], ".mkv")
