"""What recordings must be like is checked before hours are spent on them, with a line each."""

import math

import pytest

import run_pipeline
from pipeline.probing import probe_videos
from pipeline.settings import Settings, make_settings
from pipeline.validation import Findings, check_hours, check_readable, class_hours
from tests.pipelines import write_training
from tests.trainings import write_clip
from utils.config import ConfigError
from utils.recordings import Recording, Span


def make_recording(name: str, *spans: tuple[float, float, str]) -> Recording:
    return Recording(name, (name,), tuple(Span(*span) for span in spans), name, False)


def settings(**given: object) -> Settings:
    return make_settings(vars(run_pipeline), {name: str(value) for name, value in given.items()})


def check(hours: dict[str, float], reference: dict | None = None, **given: object) -> Findings:
    findings = Findings()
    check_hours(hours, settings(**given), reference, findings)
    return findings


def test_hours_are_those_of_the_labels_within_the_recording():
    recordings = [
        make_recording("a", (0, math.inf, "ads")),
        make_recording("b", (0, 1800, "games"), (1800, 9000, "ads")),
        make_recording("unknown", (0, math.inf, "ads")),
    ]
    hours = class_hours(recordings, {"a": 3600.0, "b": 5400.0})
    assert hours == pytest.approx({"ads": 2.0, "games": 0.5})


def test_little_of_a_class_is_warned_of_and_less_is_a_failure():
    assert check({"ads": 1.0, "games": 1.0}, min_class_minutes=10) == Findings()
    assert check({"ads": 0.3, "games": 1.0}, min_class_minutes=10).warnings == [
        "ads has 18.0 minutes, and 10 are asked (MIN_CLASS_MINUTES)"
    ]
    assert len(check({"ads": 0.1, "games": 1.0}, min_class_minutes=10).failures) == 1


def test_uneven_classes_are_warned_of_and_very_uneven_ones_a_failure():
    assert check({"ads": 1.0, "games": 4.0}, max_imbalance=10) == Findings()
    assert check({"ads": 1.0, "games": 6.0}, max_imbalance=10).warnings == [
        "there is 6.0 times as much of games as of ads (MAX_IMBALANCE 10)"
    ]
    assert len(check({"ads": 1.0, "games": 11.0}, max_imbalance=10).failures) == 1


def test_another_mixture_than_last_time_is_said():
    before = {"ads": 1.0, "games": 1.0}
    assert check({"ads": 5.0, "games": 5.5}, before) == Findings()
    assert (
        check({"ads": 1.0, "games": 4.0}, before, max_class_drift=0.4)
        .warnings[0]
        .startswith("30% of the time is of another class than in the last run")
    )
    assert len(check({"ads": 1.0, "games": 4.0}, before, max_class_drift=0.2).failures) == 1


def test_unreadable_videos_are_warned_of_until_they_are_too_many():
    findings = Findings()
    check_readable({"a.mp4": "cut off"}, 10, 0.2, findings)
    assert findings.warnings == ["1 of 10 videos can't be read: a.mp4 (cut off)"]
    check_readable({name: "cut off" for name in "abc"}, 10, 0.2, findings)
    assert findings.failures == ["3 of 10 videos can't be read: a (cut off) and 2 more"]


def test_lengths_and_reasons_are_found_without_decoding(tmp_path):
    good, broken = write_clip(tmp_path / "good.mp4", "ads", 0), tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    places = {"good": good, "broken": broken, "gone": tmp_path / "gone.mp4"}
    seconds, unreadable = probe_videos({name: str(path) for name, path in places.items()})
    assert seconds == {"good": pytest.approx(4.0, abs=0.3)}
    assert sorted(unreadable) == ["broken", "gone"]
    assert not any("\n" in reason for reason in unreadable.values())


def test_constants_are_checked_and_say_what_they_take():
    with pytest.raises(ConfigError, match="--test-fraction lies between 0.05 and 0.5, not 0.9"):
        settings(test_fraction=0.9)
    with pytest.raises(ConfigError, match="--min-gain takes a number, not 'much'"):
        settings(min_gain="much")


def test_flags_for_training_reach_its_configuration(tmp_path):
    script = write_training(tmp_path)
    given = settings(train_script=script, train_flags="--epochs 3 --fps 2", seed=7)
    config = given.train_config()
    assert (config.epochs, config.fps, config.seed) == (3, 2, 7)
    with pytest.raises(ConfigError, match="--train-flags has --epoch"):
        settings(train_script=script, train_flags="--epoch 3").train_config()
