"""Parts read side by side are given out in order, and are what one pass over the file says."""

import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from utils.damage import DamageLog
from utils.features import FeatureSpec, read_features
from utils.lanes import read_in_lanes, side_by_side
from utils.media import WHOLE, SplitError
from utils.mfcc import MfccSpec
from utils.parts import cut_recording

SPEC = FeatureSpec(4.0, (32, 48), "fast", True, MfccSpec())
SECONDS = 12.0
OPEN_GROUPS = {"preset": "ultrafast", "x264-params": "keyint=20:open-gop=1:bframes=3:b-adapt=0"}
HERTZ = [300, 900, 500, 1300, 400, 1000, 600, 1500, 700, 1100, 350, 950]


def write(path: Path, **options) -> Path:
    defaults = {"seconds": SECONDS, "size": (48, 96), "tone_hz": HERTZ, "options": OPEN_GROUPS}
    return media.write_video(path, **(defaults | options))


def joined(blocks) -> tuple[np.ndarray, np.ndarray | None]:
    blocks = list(blocks)
    rows = [block.mfcc for block in blocks if block.mfcc is not None]
    frames = np.concatenate([block.frames for block in blocks])
    return frames, np.concatenate(rows) if rows else None


def in_lanes(path: Path, damage: DamageLog, parts=None):
    parts = parts or cut_recording(path, SPEC, 3.0, min_seconds=0.0, lit=True)
    return read_in_lanes(path, SPEC, parts, lanes=2, damage=damage, bars_by_stretch=True)


def assert_as_in_one_pass(path: Path) -> DamageLog:
    expected, damage = DamageLog(), DamageLog()
    frames, mfcc = joined(read_features(path, SPEC, damage=expected, bars_by_stretch=True))
    found_frames, found_mfcc = joined(in_lanes(path, damage))
    np.testing.assert_array_equal(found_frames, frames)
    assert (found_mfcc is None) == (mfcc is None)
    if mfcc is not None:
        np.testing.assert_array_equal(found_mfcc, mfcc)
    assert damage.records == expected.records
    assert damage.end_seconds == pytest.approx(expected.end_seconds)
    return damage


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_lanes_read_what_one_pass_does_to_the_bit(tmp_path, name):
    path = write(tmp_path / name, start_seconds=3.3)
    assert len(cut_recording(path, SPEC, 3.0, min_seconds=0.0)) >= 3
    assert assert_as_in_one_pass(path).records == ()


def test_recording_is_cut_where_bars_are_judged_anew(tmp_path):
    """A dark stretch between bars is judged by the one before it, wherever a part would end."""
    dark = media.with_bars(lambda *_: np.full((24, 96, 3), 40, np.uint8), top=12, bottom=12)
    bright = media.with_bars(media.draw_texture, top=12, bottom=12)

    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        draw = media.draw_texture if seconds % 6 < 2 else bright if seconds % 6 < 4 else dark
        return draw(seconds, height, width)

    path = write(tmp_path / "a.mp4", draw=draw, tone_hz=None, options={"g": "10"})
    starts = [part.start for part in cut_recording(path, SPEC, 3.0, min_seconds=0.0, lit=True)]
    assert len(starts) > 1
    assert_as_in_one_pass(path)
    barred = write(tmp_path / "b.mp4", draw=bright, tone_hz=None)
    assert cut_recording(barred, SPEC, 3.0, min_seconds=0.0, lit=True) == [WHOLE]


def test_sound_beside_the_video_none_or_of_another_length_is_as_in_one_pass(tmp_path):
    path = write(tmp_path / "a.mp4", tone_hz=None)
    assert_as_in_one_pass(path)
    for seconds in (5.0, 20.0):
        media.write_wav(tmp_path / "a.wav", media.tone(HERTZ, seconds, 16000), 16000)
        damage = assert_as_in_one_pass(path)
        assert [d.kind for d in damage.records] == ["no sound"] * (seconds < SECONDS)


def test_damage_is_that_of_one_pass_wherever_the_cuts_are(tmp_path):
    options = {"g": "10", "preset": "ultrafast", "bf": "0"}
    path = write(tmp_path / "a.mp4", options=options, tone_hz=None)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size > 8 and number % 10 > 3 and number % 40 > 15:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    log = DamageLog()
    joined(read_features(path, SPEC, damage=log, bars_by_stretch=True))
    assert "unreadable" in {record.kind for record in log.records}
    found = DamageLog()
    joined(in_lanes(path, found))
    assert found.records == log.records


def test_change_of_size_at_a_cut_is_said():
    log = DamageLog()
    for size, start in ((72, 0), (72, 10), (144, 20)):
        part = log.of_part()
        part.picture(start + 5, size, 128)
        part.picture(start + 10, size, 128)
        part.unreadable(start + (9 if start < 20 else 2), "pictures")
        part.picture_gap(start, start + 3)
        assert log.picture_gaps[-1] == (start, start + 3)
        log.take_over(part)
    assert [(d.seconds, d.kind) for d in log.records if d.kind != "gap"] == [
        (9, "unreadable"),
        (19, "unreadable"),
        (20, "picture size"),
    ]
    assert "2 damaged packets of pictures within 3.0 s" in [d.description for d in log.records]
    assert (log.num_pictures, log.end_seconds) == (6, 30)


def test_stream_that_jumps_is_none_for_lanes(tmp_path):
    first = write(tmp_path / "1.ts", seconds=6.0, start_seconds=100.0)
    second = write(tmp_path / "2.ts", seconds=6.0, start_seconds=20.0)
    path = tmp_path / "a.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(SplitError):
        joined(in_lanes(path, DamageLog(), [WHOLE]))


def test_items_come_in_order_and_no_reading_runs_far_ahead():
    begun = []

    def reading(index: int):
        begun.append(index)
        for step in range(3):
            time.sleep(0.002 * (index % 3))
            yield index, step

    readings = [lambda index=index: reading(index) for index in range(8)]
    found = []
    for index, item in side_by_side(readings, 2):
        assert max(begun) <= index + 2
        found.append(item)
    assert found == [(index, step) for index in range(8) for step in range(3)]


def test_error_comes_in_its_place_and_threads_end_with_the_reader():
    def good():
        yield from range(3)

    def bad():
        yield 3
        raise SplitError("no part")

    before = threading.active_count()
    items = side_by_side([good, bad, good], 2)
    assert [next(items)[1] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(SplitError, match="no part"):
        next(items)
    items = side_by_side([good, good, good], 2)
    next(items)
    items.close()
    assert threading.active_count() == before
