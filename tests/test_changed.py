"""Questions of the benchmark of search: a changed part of a recording, and answers judged right."""

import av
import pytest

from benchmarks.changed import CHANGES, measure_changes, write_question
from tests.media import draw_time, read_time, write_video
from utils.video import probe


def test_question_is_the_part_with_its_change_and_its_sound(tmp_path):
    source = write_video(
        tmp_path / "a.mp4", seconds=8, draw=draw_time, fps=5, size=(96, 128), tone_hz=500
    )
    sizes = {"small": (180, 240), "cropped": (78, 104), "covered": (96, 128)}
    for change in CHANGES:
        path = tmp_path / f"{change}.mp4"
        write_question(source, path, (2.0, 6.0), change)
        found = probe(path)
        assert found.duration_seconds == pytest.approx(4, abs=0.1)
        assert (found.height, found.width) == sizes[change]
        assert found.has_audio
    with av.open(str(tmp_path / "small.mp4")) as container:
        times = [read_time(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    assert (times[0], times[-1]) == pytest.approx((2.0, 5.8), abs=0.25)


def test_recordings_are_found_by_their_changed_parts(clips_folder, trained_run):
    found = measure_changes(clips_folder, trained_run / "best.safetensors", 3)
    assert found["changed_questions"] == 3
    for change in CHANGES:
        assert found[f"{change}_first"] <= found[f"{change}_among_ten"] == 1
        assert found[f"{change}_told_wrong"] == 0
