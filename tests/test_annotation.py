"""Annotated copies: what the strip on the picture says, and when."""

import av
import numpy as np
import pytest

from tests.media import pitch_of, tone, write_video
from timeline.annotation import BREAK_COLOUR, COLOURS, annotate
from timeline.timeline import Segment, Timeline
from utils.audio import read_audio
from utils.muxing import MuxError

SEGMENTS = (
    Segment(0, 1.0, "games", 0.97),
    Segment(1.0, 2.0, "ads", 0.61, unsure=True),
    Segment(2.0, 3.0, "games", 0.99),
)
TIMELINE = Timeline("made.mp4", 3.0, 25, ("ads", "games"), SEGMENTS)


def white(seconds: float, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 235, np.uint8)


def pictures_of(path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def is_near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 30) -> np.ndarray:
    return (np.abs(pixels.astype(int) - colour) < tolerance).all(axis=-1)


@pytest.mark.parametrize("size", [(360, 640), (144, 256)])
def test_strip_names_label_and_place_in_the_timeline(size, tmp_path):
    source = write_video(tmp_path / "made.mp4", seconds=3, size=size, draw=white)
    copy = annotate(source, TIMELINE, tmp_path / "out.mp4")
    pictures = pictures_of(copy.path)
    assert len(pictures) == 75
    strip = max(40, round(size[0] / 8))
    game, ad = COLOURS[0], BREAK_COLOUR
    for time, picture in pictures:
        assert is_near(picture[: size[0] - strip - 2], (235, 235, 235)).mean() > 0.99
        badge = picture[size[0] - strip : size[0] - strip // 2, : strip // 12]
        colour = ad if 1.0 <= time < 2.0 else game
        assert is_near(badge, colour).mean() > 0.8, f"at {time:.2f} s"
        bar = picture[-strip // 8]
        assert is_near(bar[: round(size[1] * 0.3)], game).mean() > 0.8
        # A doubtful segment is striped: half of it dark.
        doubtful = bar[round(size[1] * 0.35) : round(size[1] * 0.65)].astype(int).sum(axis=1)
        assert 0.2 < (doubtful < 300).mean() < 0.8
    marks = [
        int(np.argmax(picture[-strip // 8].min(axis=1))) / size[1] for _, picture in pictures[5::10]
    ]
    assert marks == pytest.approx([int(t * 10) / 30 for t, _ in pictures[5::10]], abs=0.02)


def test_letters_stand_out_from_the_strip(tmp_path):
    source = write_video(tmp_path / "made.mp4", seconds=1, size=(360, 640), draw=white)
    _, picture = pictures_of(annotate(source, TIMELINE, tmp_path / "out.mp4").path)[10]
    words = picture[-44:-14, 400:630].mean(axis=-1)  # the time, white on dark
    assert np.percentile(words, 20) < 90
    assert np.percentile(words, 99) > 220
    badge = picture[-44:-14, 4:90].mean(axis=-1)  # the label, black on a colour
    assert badge.min() < 50
    assert np.median(badge) > 130


def test_sound_is_copied_and_turned_pictures_become_upright(tmp_path):
    source = write_video(
        tmp_path / "made.mp4", seconds=3, size=(90, 160), rotation_degrees=90, tone_hz=700
    )
    copy = annotate(source, TIMELINE, tmp_path / "out.mkv")
    with av.open(str(copy.path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.height, frame.width, frame.rotation) == (160, 90, 0)
        assert container.streams.audio[0].codec_context.name == "aac"
    sound = np.concatenate(list(read_audio(copy.path, 16000)))
    assert pitch_of(sound, 16000) == pytest.approx(700, abs=2)
    assert len(sound) == pytest.approx(len(tone(1, 3, 16000)), abs=800)


def test_variable_frame_rate_keeps_its_times(tmp_path):
    times = [0, 0.04, 0.08, 0.5, 0.6, 1.5, 1.6, 2.9]
    source = write_video(tmp_path / "made.mp4", seconds=3, times=times, tone_hz=None)
    pictures = pictures_of(annotate(source, TIMELINE, tmp_path / "out.mp4").path)
    assert [time for time, _ in pictures] == pytest.approx(times, abs=0.002)


def test_existing_file_is_not_written_over(tmp_path):
    source = write_video(tmp_path / "made.mp4", seconds=1)
    with pytest.raises(MuxError, match="the recording itself"):
        annotate(source, TIMELINE, source, overwrite=True)
    (tmp_path / "out.mp4").write_bytes(b"mine")
    with pytest.raises(MuxError, match="exists: pass --overwrite"):
        annotate(source, TIMELINE, tmp_path / "out.mp4")


def test_container_without_h264_names_one_that_has_it(tmp_path):
    source = write_video(tmp_path / "made.mp4", seconds=1)
    with pytest.raises(MuxError, match=r"webm file can't hold pictures .* ends in \.mkv"):
        annotate(source, TIMELINE, tmp_path / "out.webm")
    assert [path.name for path in tmp_path.iterdir()] == ["made.mp4"]
