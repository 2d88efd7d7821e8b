"""The guard ends what hangs, costs too much or is gone, and nothing that works."""

import os
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cloud import ending
from cloud.guard import SPIN_FACTOR, Activity, Guard, Use
from cloud.run_record import FAILED, LIMIT
from cloud.workplace import Wish

LONG = ("--epochs", "200", "--epoch-seconds", "0.2")
SOON = {"idle_minutes": 0.03, "save_seconds": 0.5, "final_upload_seconds": 5.0}
WAITING, WORKING, ON_GPU = Use(0.01, 0, 1, 0), Use(3.0, 0, 1, 0), Use(0.0, 60, 1, 0)


def complaints(uses: list[Use], *, idle_minutes: float = 15) -> list[str | None]:
    """What is said after each look, one a minute."""
    activity, said = Activity(0, 0, 0), []
    for minute, use in enumerate(uses):
        activity.note(use, 60 * minute)
        said.append(activity.complaint(idle_minutes, 60 * minute))
    return said


# --- what counts as idle


def test_idle_is_told_after_its_time_and_not_before():
    said = complaints([WAITING] * 16)
    assert said[:15] == [None] * 15
    assert "neither progress nor use of the machine for 15 minutes" in said[15]


@pytest.mark.parametrize("use", [WORKING, ON_GPU])
def test_use_of_the_machine_is_not_idle(use):
    assert complaints([use] * 50) == [None] * 50


def test_progress_without_use_of_the_machine_is_not_idle():
    assert complaints([Use(0, 0, number, 0) for number in range(200)]) == [None] * 200


def test_one_look_at_work_begins_the_time_anew():
    said = complaints([WAITING] * 10 + [WORKING] + [WAITING] * 16)
    assert said[:25] == [None] * 25
    assert said[25] is not None


def test_what_is_printed_alone_does_not_keep_an_idle_machine():
    said = complaints([Use(0, 0, 1, number) for number in range(16)])
    assert said[15] is not None


def test_busy_machine_without_a_sign_of_life_is_given_up_later():
    said = complaints([WORKING] * (15 * SPIN_FACTOR + 1))
    assert said[:-1] == [None] * (15 * SPIN_FACTOR)
    assert "busy, but nothing was written or said for 60 minutes" in said[-1]


def test_what_is_printed_keeps_a_busy_machine():
    assert complaints([Use(3, 0, 1, number) for number in range(200)]) == [None] * 200


# --- limits


def looked(instance, **limits) -> Wish | None:
    instance.begin(**limits)
    instance.place.keep_process("attempt", os.getpid())
    guard = Guard(instance.place)
    assert guard.look() is None
    return guard


def begun_before(instance, seconds: float) -> None:
    (instance.place.folder / "started").write_text(f"{time.time() - seconds:.0f}")


def test_time_is_up_while_there_is_some_left_to_save_and_send(small_instance):
    # An hour was allowed, of which 60 + 90 seconds are kept.
    guard = looked(small_instance, save_seconds=60, final_upload_seconds=90)
    begun_before(small_instance, 3600 - 160)
    assert guard.look() is None
    begun_before(small_instance, 3600 - 145)
    wish = guard.look()
    assert wish.state == LIMIT
    assert "the time that was allowed is used up" in wish.reason


def test_hours_of_the_run_bound_those_of_the_attempt(small_instance):
    guard = looked(small_instance, max_hours=0.5)
    begun_before(small_instance, 1800)
    assert guard.look().state == LIMIT


def test_money_is_spent_while_there_is_some_left_to_save_and_send(small_instance):
    # At half a dollar an hour.
    guard = looked(small_instance, max_cost=0.25)
    begun_before(small_instance, 1700)
    assert guard.look() is None
    begun_before(small_instance, 1790)
    wish = guard.look()
    assert wish.state == LIMIT
    assert wish.reason == "$0.25 of the $0.25 that were allowed are spent"


def test_money_of_earlier_attempts_counts(small_instance):
    small_instance.begin()
    small_instance.close()
    second = small_instance.next(max_cost=0.3)  # of which a quarter of a dollar was spent
    second.place.keep_process("attempt", os.getpid())
    guard = Guard(second.place)
    assert guard.look() is None
    begun_before(second, 360)
    assert guard.look().state == LIMIT


@pytest.mark.parametrize(("seconds_before", "dollars"), [(120, 0.5167), (-60, 0.5), (7200, 0.5)])
def test_money_counts_from_the_launch_where_the_laptop_has_the_time(
    small_instance, seconds_before, dollars
):
    # Half a dollar an hour; the third laptop is two hours late, and the second a minute early.
    small_instance.begin()
    begun_before(small_instance, 3600)
    place = small_instance.place
    launched = datetime.fromtimestamp(place.started - seconds_before, UTC).isoformat()
    place.attempt = replace(place.attempt, launched=launched)
    assert place.dollars() == pytest.approx(dollars, abs=1e-3)


def test_attempt_that_never_begins_is_missed(small_instance, monkeypatch):
    small_instance.begin()
    guard = Guard(small_instance.place)
    assert guard.look() is None
    monkeypatch.setattr("cloud.guard.BEGIN_SECONDS", 0)
    assert "did not begin" in guard.look().reason


# --- real processes


def start_both(instance, *words: str, **limits: float) -> None:
    instance.begin(*words, **SOON | limits)
    instance.start("attempt")
    instance.start("guard")


def test_training_that_hangs_is_ended(small_instance):
    start_both(small_instance, "--hang-at", "1", *LONG)
    small_instance.wait_for(lambda: small_instance.was_powered_off)
    assert small_instance.end.state == FAILED
    assert "neither progress nor use" in small_instance.end.reason
    assert small_instance.epochs_on_s3() == 1
    assert small_instance.place.process("work") is None


@pytest.mark.slow
def test_training_that_hangs_and_spins_is_ended(small_instance):
    start_both(small_instance, "--spin-at", "1", *LONG)
    small_instance.wait_for(lambda: small_instance.was_powered_off)
    assert small_instance.end.state == FAILED
    assert "the machine is busy, but nothing was written" in small_instance.end.reason
    assert small_instance.epochs_on_s3() == 1


@pytest.mark.slow
def test_training_that_is_slow_and_works_is_left_alone(small_instance):
    start_both(small_instance, "--epochs", "4", "--epoch-seconds", "1.2", idle_minutes=0.05)
    small_instance.wait_for(lambda: small_instance.end)
    assert small_instance.end.state == "done", small_instance.log


def test_attempt_that_was_killed_is_done_for(small_instance):
    start_both(small_instance, *LONG, idle_minutes=15, save_seconds=5)
    small_instance.wait_for_epoch(2)
    small_instance.kill("attempt")
    small_instance.wait_for(lambda: small_instance.was_powered_off)
    assert small_instance.end.state == FAILED
    assert "the process that ran the attempt was killed" in small_instance.end.reason
    here = (small_instance.place.run_folder / "last.ckpt").read_bytes()
    assert small_instance.read("last.ckpt") == here
    assert small_instance.epochs_on_s3() >= 2


def test_attempt_that_hears_nothing_is_killed(small_instance, monkeypatch):
    monkeypatch.setattr(ending, "MARGIN_SECONDS", 0.5)
    small_instance.begin(*LONG, save_seconds=1, final_upload_seconds=3)
    small_instance.start("attempt")
    small_instance.wait_for_epoch(1)
    small_instance.kill("attempt", signal.SIGSTOP)
    ending.end_from_outside(small_instance.place, Wish(LIMIT, "the time is used up"))
    assert small_instance.place.process("attempt") is None
    assert (small_instance.end.state, small_instance.end.reason) == (LIMIT, "the time is used up")
    assert small_instance.epochs_on_s3() >= 1


def test_guard_outlives_an_attempt_and_powers_off_in_the_end(small_instance):
    start_both(small_instance, "--epochs", "1", idle_minutes=15, final_upload_seconds=2)
    small_instance.wait_for(lambda: small_instance.was_powered_off)
    assert small_instance.end.state == "done"
