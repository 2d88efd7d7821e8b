"""The line of progress tells hours done, speed, the rest of the time and the bill."""

import pytest

from utils.progress import Progress, ProgressBar, format_seconds


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_line_before_anything_is_known(clock):
    progress = Progress({"a": 100, "b": 300}, clock=clock)
    assert progress.line() == "0.0/? h · 0x real time · ETA ? · 0 rejected"


def test_fraction_is_of_all_seconds_those_of_an_earlier_run_among_them(clock):
    progress = Progress({"a": 100, "b": 300}, prepared_seconds=3600.0, clock=clock)
    assert progress.fraction is None
    progress.opened("a", 3600.0)
    assert progress.fraction == pytest.approx(1 / 5)  # b is taken to last three hours
    progress.ended("a", 3600.0)
    progress.ended("b", 3600.0)
    assert progress.fraction == 1


def test_lengths_that_are_not_known_follow_from_sizes(clock):
    progress = Progress({"a": 100, "b": 300}, clock=clock, price_per_hour=2.0)
    progress.opened("a", 3600.0)
    clock.now += 36
    progress.decoded("a", 1800.0)
    # 4 h in all, half an hour done at 50x: 3.5 h take 252 s, and all 288 s cost 16 cents.
    assert progress.line() == (
        "0.5/4.0 h · 50x real time · ETA 4:12 · 0 rejected · $0.02 of about $0.16"
    )
    progress.opened("b", 7200.0)
    assert progress.line().startswith("0.5/3.0 h · 50x real time · ETA 3:00")


def test_what_was_prepared_before_counts_as_done_and_not_as_speed(clock):
    progress = Progress({"a": 100}, prepared_seconds=36000.0, clock=clock)
    progress.opened("a", 7200.0)
    clock.now += 10
    progress.decoded("a", 3600.0)
    assert progress.line() == "11.0/12.0 h · 360x real time · ETA 0:10 · 0 rejected"


def test_parts_of_an_earlier_run_count_as_done_and_not_as_speed(clock):
    progress = Progress({"a": 100}, clock=clock)
    progress.opened("a", 7200.0)
    progress.found("a", 3600.0)
    clock.now += 10
    progress.decoded("a", 1800.0)
    assert progress.line() == "1.5/2.0 h · 180x real time · ETA 0:10 · 0 rejected"
    progress.decoded("a", 1800.0)
    progress.ended("a", 7200.0)
    assert progress.line() == "2.0/2.0 h · 360x real time · ETA 0:00 · 0 rejected"


def test_rejected_recordings_are_no_work_done(clock):
    progress = Progress({"a": 100, "b": 100}, clock=clock)
    progress.opened("a", 3600.0)
    clock.now += 10
    progress.decoded("a", 1800.0)
    progress.ended("a", 0.0)
    assert progress.line().endswith("0x real time · ETA ? · 1 rejected")
    progress.opened("b", 3600.0)
    progress.decoded("b", 3600.0)
    progress.ended("b", 3600.0)
    assert progress.line() == "1.0/1.0 h · 360x real time · ETA 0:00 · 1 rejected"


def test_container_that_lied_about_its_length_is_corrected_at_the_end(clock):
    progress = Progress({"a": 100}, clock=clock)
    progress.opened("a", 360_000.0)
    clock.now += 10
    progress.decoded("a", 3600.0)
    progress.ended("a", 3600.0)
    assert progress.line().startswith("1.0/1.0 h")


def test_recording_decoded_in_vain_starts_again(clock):
    progress = Progress({"a": 100}, clock=clock)
    progress.opened("a", 3600.0)
    progress.decoded("a", 1800.0)
    progress.restart("a")
    clock.now += 10
    assert progress.line().startswith("0.0/1.0 h · 0x")


def test_summary_says_what_was_done(clock):
    progress = Progress({"a": 100, "b": 1}, clock=clock, price_per_hour=0.5)
    clock.now += 7200
    progress.decoded("a", 720_000.0)
    progress.ended("a", 720_000.0)
    progress.ended("b", 0.0)
    assert progress.summary() == (
        "prepared 200.00 h of video in 2:00:00 · 100x real time · 1 rejected · $1.00"
    )


def test_bar_shows_the_line(clock, capsys):
    progress = Progress({"a": 100}, clock=clock)
    bar = ProgressBar(progress)
    progress.opened("a", 3600.0)
    bar.close()
    assert "prepared: 0.0/1.0 h" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (4831, "1:20:31")]
)
def test_durations_are_written_as_a_clock_shows_them(seconds, text):
    assert format_seconds(seconds) == text
