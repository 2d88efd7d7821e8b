"""A recording is said in a line, or in one for each of its segments."""

import csv
from dataclasses import replace
from pathlib import Path

from tests.timelines import timeline
from timeline.summary import clock, describe_timeline, summary_row, summary_table
from timeline.timeline import Damage

PATH = Path("archive/game.ts")


def test_recording_that_shows_one_thing_is_a_line():
    said = describe_timeline(PATH, timeline("games 9.5", has_sound=False), "games", 0.975)
    assert said == "games       97.5%  archive/game.ts  (9.5 s, no sound)"


def test_recording_with_breaks_has_a_line_for_each_segment():
    made = timeline("games 3600", "ads? 90.5", "games 10")
    first, second, third = made.segments
    second = replace(second, start_evidence=("black", "pause"))
    damage = (Damage(30.0, "gap", "12 s are missing"),)
    made = replace(made, segments=(first, second, third), damage=damage)
    assert describe_timeline(PATH, made, "games", 0.9).splitlines() == [
        "games       90.0%  archive/game.ts  (1:01:40.5, 1 break, 0:01:30.5 in all)",
        "    0:00:00.0 - 1:00:00.0  games       97.0%",
        "    1:00:00.0 - 1:01:30.5  ads         60.0%  unsure, from black and pause",
        "    1:01:30.5 - 1:01:40.5  games       97.0%",
        "    0:00:30.0  damaged: 12 s are missing",
    ]


def test_summary_has_a_row_for_each_recording_and_for_those_that_failed():
    made = timeline("games 60", "ads? 30", "games 60", "ads 15")
    rows = [
        summary_row(PATH, made, [Path("game.edl"), Path("game.csv")]),
        {"recording": "x.ts", "error": "not a video"},
    ]
    read = list(csv.DictReader(summary_table(rows).decode().splitlines()))
    assert read[0]["recording"] == "archive/game.ts"
    assert (read[0]["breaks"], read[0]["ads_seconds"], read[0]["unsure_seconds"]) == (
        "2",
        "45.0",
        "30.0",
    )
    assert read[0]["files"] == "game.edl game.csv"
    assert (read[1]["recording"], read[1]["error"], read[1]["breaks"]) == (
        "x.ts",
        "not a video",
        "",
    )


def test_times_are_said_to_the_tenth():
    assert clock(59.96) == "0:01:00.0"
    assert clock(36_000.04) == "10:00:00.0"
