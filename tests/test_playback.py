"""Playback: which files a browser plays as they are."""

import shutil

import pytest

from tests.media import write_video
from utils.media import MediaError
from utils.playback import look_into, read_tracks
from utils.video import probe

H264 = {"codec": "libx264"}
FILES = {
    "a.mp4": (H264, "mp4", True),
    "a.mov": (H264, "mp4", True),
    "silent.mp4": ({**H264, "tone_hz": None}, "mp4", True),
    "late.mp4": ({**H264, "start_seconds": 2.0}, "mp4", False),  # of which browsers disagree
    "a.ts": (H264, "mpegts", False),
    "a.mkv": (H264, "matroska", False),
    "a.avi": ({"codec": "mpeg4"}, "avi", False),
    "mpeg4.mp4": ({"codec": "mpeg4"}, "mp4", False),
    "ten_bits.mp4": ({"pix_fmt": "yuv420p10le"}, "mp4", False),
    "all_colours.mp4": ({"pix_fmt": "yuv444p"}, "mp4", False),
    "a.webm": ({"codec": "libvpx", "tone_hz": None}, "webm", True),
    "vp8.mkv": ({"codec": "libvpx", "tone_hz": None}, "matroska", False),
}


@pytest.mark.parametrize("name", FILES)
def test_it_is_known_what_a_browser_plays(tmp_path, name):
    how, container, plays = FILES[name]
    tracks = read_tracks(write_video(tmp_path / name, seconds=0.4, **how))
    assert (tracks.container, tracks.plays) == (container, plays)
    assert tracks.media_type.startswith("video/")


def test_the_content_counts_and_not_the_name(tmp_path):
    path = write_video(tmp_path / "a.ts", seconds=0.4)
    shutil.copy(path, tmp_path / "b.mp4")
    assert read_tracks(tmp_path / "b.mp4") == read_tracks(path)
    assert not read_tracks(tmp_path / "b.mp4").plays


def test_a_look_tells_the_probe_too(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=0.4)
    assert look_into(path) == (probe(path), read_tracks(path))
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        look_into(path)
