"""Pictures and sound of one pass over a file are those of passes of their own."""

import numpy as np
import pytest

from tests import media
from utils import audio
from utils.audio import Sound, compute_mfcc
from utils.interleaved import Interleaved
from utils.media import (
    WHOLE,
    Clock,
    Cut,
    Part,
    SplitError,
    audio_stream,
    opened,
    packets,
    video_stream,
)
from utils.mfcc import MfccSpec


@pytest.fixture
def path(tmp_path):
    return media.write_video(
        tmp_path / "a.mkv", seconds=4, tone_hz=[300, 900, 500, 1200], options={"g": "25"}
    )


def both_of(path, container, clock, part=WHOLE) -> Interleaved:
    sound = Sound(audio_stream(container), MfccSpec(), first_row=0, is_part=False)
    return Interleaved(path, video_stream(container), sound, clock, part)


def test_packets_of_pictures_are_those_of_the_file_and_sound_is_heard_on_the_way(path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 0.5)
    with opened(path) as container:
        expected = [p and p.pts for p in packets(container, video_stream(container))]
    with opened(path) as container:
        clock = Clock(video_stream(container))
        clock.zero = 0.0
        both = both_of(path, container, clock)
        found, heard_before_the_end = [], False
        for packet in both.video_packets():
            found.append(packet and packet.pts)
            heard_before_the_end |= both.heard and packet is not None
        assert found == expected
        assert heard_before_the_end
        rows = [both.rows(20), both.rows(60), both.finish(125)]
        assert [len(r) for r in rows[:2]] == [20, 40]
        np.testing.assert_array_equal(np.concatenate(rows), compute_mfcc(path, MfccSpec(), 4.0))


def test_sound_waits_for_the_first_picture(path):
    with opened(path) as container:
        both = both_of(path, container, Clock(video_stream(container)))
        for _ in both.video_packets():
            assert len(both.rows(1000)) == 0
        assert not both.heard
        assert len(both.finish(125)) == 125  # not before the end says that there is no picture


def test_part_begins_at_its_key_packet(path):
    with opened(path) as container:
        keys = [
            packet
            for packet in packets(container, video_stream(container))
            if packet is not None and packet.is_keyframe
        ]
    third = Cut(keys[2].pts, keys[2].pos)
    for cut in (third, Cut(third.pts, third.position + 1)):
        part = Part(1, 2, cut, None, 0.0)
        with opened(path) as container:
            clock = Clock(video_stream(container), part)
            incoming = both_of(path, container, clock, part).video_packets()
            if cut == third:
                assert next(incoming).pts == third.pts
            else:
                with pytest.raises(SplitError):
                    next(incoming)
