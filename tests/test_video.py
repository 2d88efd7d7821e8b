"""Pictures have their true times, colours and edges, whatever the file; bad files say so."""

import math
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from utils import video
from utils.bars import find_bars
from utils.media import Clock, Crop, MediaError, opened, packets, video_stream
from utils.video import moments_of, probe, read_frames

SIZE = (48, 48)
READERS = ("fast", "opencv")

both_readers = pytest.mark.parametrize("reader", READERS)


def times_read(path: Path, fps: float, reader: str, **options) -> list[float]:
    return [media.read_time(f) for f in read_frames(path, fps, SIZE, mode=reader, **options)]


def times_shown(times: list[float], fps: float, end: float) -> list[float]:
    """The true answer: the newest of `times` at every k / fps before `end`, but for 2 ms."""
    count = math.ceil((end - 0.002) * fps)
    return [max(t for t in times if t <= k / fps + 0.002) for k in range(count)]


def assert_times(found: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(found, expected, atol=0.0006)  # written in whole milliseconds


@both_readers
@pytest.mark.parametrize("rate", [12, 24, 25, 30, 30000 / 1001, 50, 60])
def test_pictures_are_those_shown_at_their_times(tmp_path, rate, reader):
    path = media.write_video(tmp_path / "a.mkv", fps=rate, tone_hz=None)
    count = round(2 * rate)
    times = [k / rate for k in range(count)]
    for fps in (4, 6):
        assert_times(times_read(path, fps, reader), times_shown(times, fps, count / rate))


@both_readers
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_time_zero_is_the_first_picture(tmp_path, name, reader):
    path = media.write_video(tmp_path / name, start_seconds=7.3, tone_hz=None)
    assert_times(times_read(path, 5, reader), [k / 5 for k in range(10)])
    assert probe(path).duration_seconds == pytest.approx(2.0, abs=0.1)


@both_readers
def test_variable_frame_rate_repeats_the_picture_that_stays(tmp_path, reader):
    times = [0, 0.1, 0.15, 0.5, 0.55, 0.9, 3.4, 3.5]
    path = media.write_video(
        tmp_path / "a.mp4", times=times, tone_hz=None, options={"bf": "0", "preset": "veryfast"}
    )
    assert_times(times_read(path, 5, reader), times_shown(times, 5, 3.5 + 1 / 25))


@both_readers
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_upright(tmp_path, degrees, reader):
    def stored(seconds, height, width):
        upright = (height, width) if degrees % 180 == 0 else (width, height)
        return np.rot90(media.draw_time(seconds, *upright), degrees // 90).copy()

    path = media.write_video(
        tmp_path / "a.mp4", size=(96, 160), draw=stored, rotation_degrees=degrees, seconds=1
    )
    info = probe(path)
    assert info.rotation_degrees == degrees
    assert (info.height, info.width) == ((96, 160) if degrees % 180 == 0 else (160, 96))
    assert_times(times_read(path, 5, reader), [0, 0.2, 0.4, 0.6, 0.8])


@both_readers
@pytest.mark.parametrize(
    ("name", "codec", "size", "pix_fmt"),
    [
        ("a.mkv", "libvpx-vp9", (71, 127), "yuv420p"),
        ("a.mkv", "libx264", (71, 127), "yuv444p"),
        ("a.mkv", "libx264", (72, 128), "yuv420p10le"),
        ("a.webm", "libvpx", (72, 128), "yuv420p"),
        ("a.mkv", "mjpeg", (72, 128), "yuvj420p"),
        ("a.avi", "mpeg4", (72, 128), "yuv420p"),
        ("a.mpg", "mpeg2video", (72, 128), "yuv420p"),
        ("a.h264", "libx264", (72, 128), "yuv420p"),
    ],
)
def test_codecs_and_odd_sizes_keep_their_times(tmp_path, name, codec, size, pix_fmt, reader):
    path = media.write_video(
        tmp_path / name, codec=codec, size=size, pix_fmt=pix_fmt, tone_hz=None, seconds=1
    )
    assert_times(times_read(path, 5, reader), [0, 0.2, 0.4, 0.6, 0.8])


@both_readers
@pytest.mark.parametrize("matrix", ["ITU601", "ITU709"])
def test_colours_follow_the_matrix_that_the_file_names(tmp_path, matrix, reader):
    def draw(seconds, height, width):
        return np.full((height, width, 3), (200, 60, 40), np.uint8)

    path = media.write_video(tmp_path / "a.mp4", draw=draw, colorspace=matrix, seconds=0.2)
    picture = next(read_frames(path, 4, SIZE, mode=reader))
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), (200, 60, 40), atol=3)


def test_modes_agree_on_pictures_with_b_frames(tmp_path):
    options = {"bf": "8", "b-pyramid": "normal", "g": "50", "crf": "23"}
    path = media.write_video(
        tmp_path / "a.mp4", size=(180, 320), draw=media.draw_texture, options=options, seconds=4
    )
    modes = ("fast", "exact", "opencv")
    fast, exact, opencv = (np.stack(list(read_frames(path, 6, (96, 96), mode=m))) for m in modes)
    assert fast.shape == exact.shape == opencv.shape == (24, 96, 96, 3)
    assert fast.dtype == opencv.dtype == np.uint8
    for one, other, limit in ((fast, opencv, 3.5), (exact, opencv, 2.5), (fast, exact, 2.5)):
        assert np.abs(one.astype(int) - other).mean(axis=(1, 2, 3)).max() < limit
    # One picture off would be seen: neighbours on the grid differ by far more.
    assert np.abs(opencv[1:].astype(int) - opencv[:-1]).mean() > 10


@pytest.mark.parametrize("rate", [25, 30000 / 1001, 50])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_exact_pictures_are_those_shown_at_their_times(tmp_path, name, rate):
    path = media.write_video(tmp_path / name, fps=rate, tone_hz=None, start_seconds=3)
    times = [k / rate for k in range(round(2 * rate))]
    assert_times(times_read(path, 6, "exact"), times_shown(times, 6, len(times) / rate))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "20", "sc_threshold": "0", "preset": "veryfast"}),
        ("a.ts", "libx264", {"x264-params": "keyint=20:open-gop=1:scenecut=0:bframes=3"}),
        ("a.mkv", "libx264", {"g": "20", "sc_threshold": "0", "preset": "veryfast"}),
        ("a.avi", "mpeg4", {"g": "20", "bf": "2", "sc_threshold": "1000000000"}),
        ("a.mpg", "mpeg2video", {"g": "20", "bf": "2", "sc_threshold": "1000000000"}),
    ],
)
def test_keyframes_show_the_nearest_one(tmp_path, name, codec, options):
    path = media.write_video(
        tmp_path / name, codec=codec, seconds=5, options=options, tone_hz=None, start_seconds=2
    )
    with opened(path) as container:
        stream = video_stream(container)
        keys = [p for p in packets(container, stream) if p is not None and p.is_keyframe]
        ticks = [p.dts if p.pts is None else p.pts for p in keys]
        seconds = [float((tick - ticks[0]) * stream.time_base) for tick in ticks]
    assert len(seconds) >= 5
    times = times_read(path, 6, "keyframes")
    assert len(times) == len(times_read(path, 6, "exact"))
    assert len(set(times)) == len(seconds)
    for k, time in enumerate(times):
        nearest = min(abs(key - k / 6) for key in seconds)
        # AVI names the decoding times only, one or two pictures before the others.
        assert abs(time - k / 6) <= nearest + (0.2 if name == "a.avi" else 0.001)


def test_keyframes_decode_nothing_else(tmp_path):
    options = {"g": "20", "sc_threshold": "0", "preset": "veryfast"}
    path = media.write_video(tmp_path / "a.mp4", seconds=4, options=options, tone_hz=None)
    with opened(path) as container:
        stream = video_stream(container)
        moments = moments_of(packets(container, stream), stream, Clock(stream), 4, mode="keyframes")
        shown = [moment for moment in moments if moment.picture is not None]
    assert len(shown) == 5
    assert all(moment.picture.key_frame for moment in shown)


def test_keyframes_of_spliced_streams_follow_each_other(tmp_path):
    options = {"g": "10", "sc_threshold": "0", "preset": "veryfast"}
    first = media.write_video(tmp_path / "1.ts", tone_hz=None, options=options)
    second = media.write_video(tmp_path / "2.ts", tone_hz=None, options=options, start_seconds=900)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    times = times_read(path, 5, "keyframes")
    assert len(times) == pytest.approx(20, abs=1)
    off = [abs(time - k / 5) % 2 for k, time in enumerate(times)]
    assert all(min(seconds, 2 - seconds) <= 0.25 for seconds in off)


def test_time_that_damaged_bits_say_does_not_last_for_days(tmp_path):
    times = [0, 0.04, 0.08, 90_000.0, 90_000.04]
    path = media.write_video(tmp_path / "a.mp4", times=times, tone_hz=None, options={"bf": "0"})
    for mode in ("fast", "exact", "opencv", "keyframes"):
        assert len(times_read(path, 4, mode)) < 4


def test_fast_reader_leaves_out_pictures_but_none_that_is_shown(tmp_path):
    options = {"bf": "8", "b-pyramid": "none", "b-adapt": "0", "g": "50"}
    path = media.write_video(tmp_path / "a.mp4", options=options, seconds=4, tone_hz=None)
    with opened(path) as container:
        stream = video_stream(container)
        moments = moments_of(packets(container, stream), stream, Clock(stream), 4, mode="fast")
        assert sum(1 for _ in moments) < 50  # of 100
    assert_times(times_read(path, 4, "fast"), [math.floor(k / 4 * 25) / 25 for k in range(16)])


@both_readers
def test_three_pictures_give_every_grid_time_and_one_gives_one(tmp_path, reader):
    three = media.write_video(tmp_path / "3.mp4", times=[0, 0.04, 0.08], tone_hz=None)
    assert_times(times_read(three, 25, reader), [0, 0.04, 0.08])
    assert_times(times_read(three, 4, reader), [0])
    one = media.write_video(tmp_path / "1.mp4", times=[0], tone_hz=None)
    assert_times(times_read(one, 0.5, reader), [0])


@both_readers
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_crop_is_what_lies_inside(tmp_path, degrees, reader):
    crop = Crop(top=20, bottom=116, left=40, right=168)

    def stored(seconds, height, width):
        upright = (height, width) if degrees % 180 == 0 else (width, height)
        picture = np.full((*upright, 3), 128, np.uint8)
        inside = (crop.bottom - crop.top, crop.right - crop.left)
        picture[crop.top : crop.bottom, crop.left : crop.right] = media.draw_time(seconds, *inside)
        return np.rot90(picture, degrees // 90).copy()

    size = (160, 240) if degrees % 180 == 0 else (240, 160)
    path = media.write_video(
        tmp_path / "a.mp4", size=size, draw=stored, rotation_degrees=degrees, seconds=1
    )
    frames = list(read_frames(path, 5, SIZE, crop=crop, mode=reader))
    assert_times([media.read_time(f) for f in frames], [0, 0.2, 0.4, 0.6, 0.8])
    extremes = np.minimum(frames[3], 255 - frames[3].astype(int))
    assert extremes.mean() < 25  # no grey of the surroundings got in


@both_readers
def test_pictures_that_cannot_be_scaled_are_a_media_error(tmp_path, reader):
    path = media.write_video(tmp_path / "a.mp4", tone_hz=None)
    with pytest.raises(MediaError, match="scaled"):
        list(read_frames(path, 4, SIZE, crop=Crop(0, 20, 500, 600), mode=reader))


def test_unknown_reader_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="decord.*fast, exact, keyframes, opencv"):
        read_frames(tmp_path / "a.mp4", 4, SIZE, mode="decord")


def pictures_of(whole: bytes) -> tuple[int, int]:
    """The bytes of an MP4 that hold pictures; the rest is the index."""
    return whole.index(b"mdat") + 4, whole.index(b"moov") - 4


def write_bad(folder: Path, kind: str) -> Path:
    path = folder / "bad.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("This is not a video, whatever its name.\n" * 50)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no index":
        path.write_bytes(media.write_video(folder / "a.mp4").read_bytes()[:9000])
    elif kind == "audio only":
        media.write_wav(path, media.tone(440, 1, 16000), 16000)
    elif kind == "no picture":  # the index is whole, the pictures are not there
        whole = bytearray(media.write_video(folder / "a.mp4", tone_hz=None).read_bytes())
        start, end = pictures_of(whole)
        whole[start:end] = bytes(end - start)
        path.write_bytes(whole)
    return path


@both_readers
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "no such file"),
        ("empty", "zero bytes"),
        ("text", "not a video file"),
        ("no index", "not a video file"),
        ("audio only", "no video stream"),
        ("no picture", "no frame could be decoded"),
    ],
)
def test_bad_file_says_what_is_wrong_in_one_line(tmp_path, kind, message, reader):
    path = write_bad(tmp_path, kind)
    for read in (probe, find_bars, lambda p: list(read_frames(p, 4, SIZE, mode=reader))):
        with pytest.raises(MediaError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def write_broadcast(folder: Path) -> bytearray:
    """A stream of six seconds in packets of 188 bytes, with a key picture every half second."""
    options = {"g": "12", "preset": "veryfast"}
    path = media.write_video(folder / "whole.ts", seconds=6, tone_hz=None, options=options)
    return bytearray(path.read_bytes())


@both_readers
@pytest.mark.parametrize("kind", ["missing", "noise"])
def test_damage_in_the_middle_is_skipped(tmp_path, kind, reader):
    whole = write_broadcast(tmp_path)
    count = len(whole) // 188
    start, end = 188 * (count // 3), 188 * (count // 2)
    if kind == "missing":
        del whole[start:end]
    else:
        noise = np.random.default_rng(0)
        for packet in range(start, end, 188):
            whole[packet + 20 : packet + 180] = noise.bytes(160)
    path = tmp_path / "damaged.ts"
    path.write_bytes(whole)
    times = times_read(path, 5, reader)
    assert len(times) == 30
    assert_times(times[:9] + times[19:], [k / 5 for k in [*range(9), *range(19, 30)]])


@both_readers
def test_damaged_pictures_of_a_whole_index_are_skipped(tmp_path, reader):
    options = {"g": "12", "preset": "veryfast"}
    path = media.write_video(tmp_path / "a.mp4", seconds=6, tone_hz=None, options=options)
    damaged = bytearray(path.read_bytes())
    start, end = pictures_of(damaged)
    damaged[(start + end) // 2 : (start + end) // 2 + 500] = np.random.default_rng(0).bytes(500)
    path.write_bytes(damaged)
    times = times_read(path, 5, reader)
    assert len(times) == 30
    assert_times(times[:10] + times[20:], [k / 5 for k in [*range(10), *range(20, 30)]])


@both_readers
def test_file_cut_out_of_a_stream_gives_its_pictures(tmp_path, reader):
    whole = write_broadcast(tmp_path)
    packets = len(whole) // 188
    path = tmp_path / "cut.ts"
    path.write_bytes(whole[188 * (packets // 3) + 50 : 188 * (packets * 2 // 3) + 70])
    times = times_read(path, 5, reader)
    assert len(times) >= 6
    assert times[0] > 1.5
    assert_times(times[:6], [times[0] + k / 5 for k in range(6)])


@both_readers
def test_truncated_recording_gives_what_is_left(tmp_path, reader):
    options = {"g": "12", "preset": "veryfast", "bf": "0"}
    whole = media.write_video(tmp_path / "a.mkv", seconds=4, tone_hz=None, options=options)
    path = tmp_path / "half.mkv"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    times = times_read(path, 5, reader)
    assert 5 <= len(times) <= 15
    assert_times(times, [k / 5 for k in range(len(times))])


@both_readers
def test_spliced_streams_follow_each_other(tmp_path, reader):
    small = media.write_video(tmp_path / "1.ts", tone_hz=None)
    large = media.write_video(tmp_path / "2.ts", tone_hz=None, size=(144, 256), start_seconds=900)
    for first, second in ((small, large), (large, small)):
        path = tmp_path / "both.ts"
        path.write_bytes(first.read_bytes() + second.read_bytes())
        assert_times(times_read(path, 5, reader), [k / 5 for k in range(10)] * 2)


@both_readers
def test_crop_follows_a_change_of_size(tmp_path, reader):
    draw = media.with_bars(media.draw_time, left=40, right=40)
    wide = media.with_bars(media.draw_time, left=80, right=80)
    first = media.write_video(tmp_path / "1.ts", tone_hz=None, size=(90, 160), draw=draw)
    second = media.write_video(tmp_path / "2.ts", tone_hz=None, size=(180, 320), draw=wide)
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    crop = Crop(top=0, bottom=90, left=40, right=120)
    assert_times(times_read(path, 5, reader, crop=crop), [k / 5 for k in range(10)] * 2)


def test_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(media.draw_time(0, 64, 64), format="rgb24")
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        block.sample_rate, block.pts = 16000, 0
        container.mux(sound.encode(block))
        container.mux(sound.encode())
    with pytest.raises(MediaError, match="no video stream"):
        probe(path)


def test_import_of_the_readers_is_light():
    code = "import sys, utils.audio; print(sorted({'cv2', 'librosa', 'scipy'} & set(sys.modules)))"
    root = Path(video.__file__).parent.parent
    found = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root)
    assert found.strip() == "[]"
