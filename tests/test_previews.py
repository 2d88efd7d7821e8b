"""Previews show the key picture at or before a time, of any file, as a player would."""

import io
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.media import draw_texture, read_time, with_bars, write_video
from utils.media import MediaError
from utils.previews import PreviewReader, read_preview

SECONDS = 8.0
FAST_VP8 = {"g": "25", "deadline": "realtime", "cpu-used": "8"}
FILES = {  # how each is written, and how far its keys are apart
    "a.mp4": ({"options": {"g": "50", "bf": "3"}, "start_seconds": 0.5}, 2.0),
    "a.mkv": ({"options": {"g": "25"}, "start_seconds": 7.3}, 1.0),
    "a.ts": ({"options": {"g": "25", "bf": "2"}, "start_seconds": 95_440.0}, 1.0),  # wraps
    "one_key.ts": ({"options": {"g": "250"}}, SECONDS),
    "open.ts": ({"options": {"x264-params": "keyint=20:open-gop=1:scenecut=0:bframes=3"}}, 0.8),
    "a.avi": ({"codec": "mpeg4", "options": {"g": "25"}}, 1.0),
    "mpeg2.ts": ({"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}, 0.48),
    "a.webm": ({"codec": "libvpx", "tone_hz": None, "options": FAST_VP8}, 1.0),
}


def picture_of(jpeg: bytes) -> np.ndarray:
    with av.open(io.BytesIO(jpeg)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.fixture
def reader(tmp_path):
    made = []

    def make(name: str, **how) -> PreviewReader:
        path = write_video(tmp_path / name, **{"seconds": SECONDS, "size": (144, 256), **how})
        made.append(PreviewReader(path))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


@pytest.mark.parametrize("name", FILES)
def test_a_preview_is_of_the_last_key_before_a_time(reader, name):
    how, key_seconds = FILES[name]
    how = {**how, "options": {"sc_threshold": "0", **how["options"]}} if "codec" not in how else how
    made = reader(name, **how)
    asked = [6.9, 0.0, 3.97, 1.02, 7.9, 5.5]
    shown = [read_time(picture_of(made.read(seconds, 72))) for seconds in asked]
    for seconds, of in zip(asked, shown, strict=True):
        assert -0.005 <= seconds - of < key_seconds + 0.045, (seconds, of)


def test_a_time_behind_the_end_shows_the_last_key(reader):
    made = reader("a.mp4", options={"g": "25", "sc_threshold": "0"})
    assert read_time(picture_of(made.read(1e6, 72))) == 7.0


def test_a_preview_is_upright_with_square_pixels_and_its_bars(reader):
    draw = with_bars(lambda *_: np.full((144, 180, 3), (255, 0, 0), np.uint8), left=38, right=38)
    made = reader("a.mp4", draw=draw, seconds=0.2)
    picture = picture_of(made.read(0, 72))
    assert picture.shape == (72, 128, 3)
    assert (picture[:, :16] < 24).all()
    assert np.abs(picture[8:64, 24:104].astype(int) - (255, 0, 0)).max() < 24
    turned = reader("b.mp4", draw=draw_texture, seconds=0.2, rotation_degrees=90)
    assert picture_of(turned.read(0, 128)).shape == (128, 72, 3)


def test_damage_is_passed_over(tmp_path):
    path = write_video(tmp_path / "a.ts", seconds=SECONDS, options={"g": "25", "bf": "0"})
    data = bytearray(path.read_bytes())
    start, end = len(data) * 3 // 8 // 188 * 188, len(data) * 5 // 8 // 188 * 188
    data[start:end] = np.random.default_rng(0).bytes(end - start)
    path.write_bytes(data)
    for seconds in np.arange(0, SECONDS, 0.5):
        shown = read_time(picture_of(read_preview(path, seconds, 72)))
        if seconds < 2 or seconds > 6.5:
            assert 0 <= seconds - shown <= 1.5


def test_a_file_that_changed_is_opened_again(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=1, draw=lambda *_: np.zeros((72, 128, 3), "u1"))
    assert picture_of(read_preview(path, 0.5, 72)).mean() < 20
    write_video(path, seconds=1, draw=lambda *_: np.full((72, 128, 3), 255, np.uint8))
    assert picture_of(read_preview(path, 0.5, 72)).mean() > 235
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_preview(path, 0.5, 72)
    path.write_bytes(b"no video")
    with pytest.raises(MediaError):
        read_preview(path, 0.5, 72)


def test_many_files_leave_few_open(tmp_path):
    from utils import previews

    paths = [write_video(tmp_path / f"{k}.mp4", seconds=0.2, tone_hz=None) for k in range(5)]
    for first, second in pairwise(paths):
        for path in (first, second, first):
            read_preview(path, 0, 36)
    assert len(previews._readers) == previews.MAX_READERS
