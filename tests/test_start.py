"""Start: one instance for an attempt, from the cheapest choice that can be had, by one launcher."""

import threading
from dataclasses import replace

import pytest

from cloud import start
from cloud.aws import AwsError, CloudError
from cloud.plan import ON_DEMAND, SPOT
from cloud.run_record import DONE, INTERRUPTED, AttemptEnd, Limits, seconds_between, utc_now
from cloud.start import (
    NoCapacityError,
    Run,
    SpentError,
    StrandedError,
    order_choices,
    start_attempt,
    write_off_stale,
)
from tests.launching import ATTEMPT, CHOICES, NAME, QUICK, choice, make_ground, make_run

FULL = "InsufficientInstanceCapacity"


@pytest.fixture
def run(aws):
    return make_run(aws)


@pytest.fixture
def ground(run):
    return make_ground(run)


def nothing(*_):
    pass


def lost(number: int, where) -> tuple:
    """An attempt that was interrupted, and its end."""
    attempt = replace(
        ATTEMPT, number=number, instance_type=where.instance_type, market=where.market,
        zone=where.zone, launched="2026-11-22T06:00:00+00:00", instance_id="i-1",
    )  # fmt: skip
    return attempt, AttemptEnd(INTERRUPTED, "", 1, "2026-11-22T06:30:00+00:00", 0.25)


def test_first_choice_is_started_and_on_record_with_its_schedule(aws, run, ground):
    attempt = start_attempt(run, 1, ground, nothing)
    assert (attempt.instance_type, attempt.market, attempt.zone) == (
        "c7i.2xlarge", SPOT, "us-east-1a",
    )  # fmt: skip
    assert run.record.read_attempts() == [attempt]
    assert aws.left() == [attempt.instance_id]
    assert len(aws.schedules()) == 1
    assert attempt.dollars_per_hour == pytest.approx(0.5)  # disk and address are in it
    assert attempt.max_minutes == 120
    assert 7700 < seconds_between(utc_now(), attempt.deadline) < 7810


def test_want_of_capacity_leads_through_zones_and_types_to_on_demand(aws, run, ground):
    asked = []

    def capacity(market, kind, zone):
        asked.append((kind, market, zone))
        return None if market == ON_DEMAND else FULL

    aws.capacity = capacity
    attempt = start_attempt(run, 1, ground, nothing)
    assert attempt.market == ON_DEMAND
    assert [(c.instance_type, c.market, c.zone) for c in CHOICES] == asked
    assert aws.left() == [attempt.instance_id]


def test_no_capacity_anywhere_leaves_nothing_and_says_what_to_do(aws, run, ground):
    aws.capacity = lambda *_: FULL
    with pytest.raises(NoCapacityError, match="none of the 4 instances.*try again later"):
        start_attempt(run, 1, ground, nothing)
    assert aws.left() == aws.schedules() == []
    assert run.record.read_end(1).state == INTERRUPTED


def test_refusal_for_good_stops_at_the_first_choice(aws, run, ground):
    aws.fail("RunInstances", "denied", count=99)
    with pytest.raises(AwsError, match="ec2:RunInstances was refused"):
        start_attempt(run, 1, ground, nothing)
    assert len(aws.called("RunInstances")) == 1
    assert "was refused" in run.record.read_end(1).reason


@pytest.mark.parametrize(
    ("call", "part"), [("CreateSchedule", ""), ("PutObject", "attempts/1.json")]
)
def test_instance_that_can_not_be_kept_track_of_is_terminated(
    aws, run, ground, call, part, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    first = 1 if call == "PutObject" else 0  # the claim before it is written
    aws.fail(call, "denied", count=99, part=part, after=first)
    with pytest.raises((CloudError, OSError), match="denied|refused"):
        start_attempt(run, 1, ground, nothing)
    assert len(aws.machines) == 1
    assert aws.wait_until_empty(60)
    assert aws.schedules() == []


def test_ctrl_c_while_it_starts_leaves_nothing(aws, run, ground, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "schedule_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_attempt(run, 1, ground, nothing)
    assert len(aws.machines) == 1
    assert aws.wait_until_empty(60)


def test_what_can_not_even_be_terminated_is_said(aws, run, ground):
    aws.fail("CreateSchedule", "denied", count=99)
    aws.fail("TerminateInstances", "denied", count=99)
    with pytest.raises(StrandedError, match="may still run.*after 120 min.*reap --all"):
        start_attempt(run, 1, ground, nothing)


def test_two_launchers_of_one_attempt_start_one_instance(aws, run, ground):
    found, second = [], Run(run.plan, run.record)
    assert second.launcher != run.launcher

    def launch(one):
        found.append(start_attempt(one, 1, ground, nothing).instance_id)

    threads = [threading.Thread(target=launch, args=(one,)) for one in (run, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert len(set(found)) == len(aws.machines) == 1


@pytest.mark.parametrize("has_started", [False, True])
def test_attempt_of_a_launcher_that_was_killed_is_taken_over(aws, run, ground, has_started):
    killed = Run(run.plan, run.record)
    claim = start._new_attempt(killed, 1, CHOICES[0], [], {})
    etag = killed.record.write_attempt(claim, None)
    if has_started:  # and was killed before it could write that
        start.start_instance(run.plan, claim, start._place(killed, claim, ground))
    attempt = start_attempt(run, 1, ground, nothing)
    assert [attempt.instance_id] == [m.id for m in aws.machines]
    assert attempt.launcher == run.launcher
    with pytest.raises(OSError, match="replaced by somebody else"):  # should it live after all
        killed.record.write_attempt(claim, etag)


def test_attempt_that_ended_while_nobody_looked_is_not_started_again(aws, run, ground):
    killed = Run(run.plan, run.record)
    claim = start._new_attempt(killed, 1, CHOICES[0], [], {})
    killed.record.write_attempt(claim, None)  # it started its instance, and was killed
    run.record.write_end(1, AttemptEnd(DONE, "", 0, utc_now(), 0.1))
    assert start_attempt(run, 1, ground, nothing) == claim
    assert aws.machines == []


def test_taken_over_attempt_goes_on_with_the_next_choice_where_its_own_is_full(aws, run, ground):
    killed = Run(run.plan, run.record)
    killed.record.write_attempt(start._new_attempt(killed, 1, CHOICES[0], [], {}), None)
    aws.capacity = lambda market, kind, zone: FULL if zone == "us-east-1a" else None
    assert start_attempt(run, 1, ground, nothing).zone == "us-east-1b"


def test_hours_and_dollars_left_bound_the_next_attempt(aws, ground):
    run = make_run(aws, limits=replace(QUICK, max_cost=0.5))
    earlier, end = lost(1, CHOICES[0])  # half an hour and a quarter of a dollar
    attempt = start._new_attempt(run, 2, CHOICES[1], [earlier], {1: end})
    assert attempt.dollars_before == pytest.approx(0.25)
    assert attempt.max_minutes == 30  # by dollars: a quarter, at half a dollar an hour
    cheap = make_run(aws, limits=replace(QUICK, max_hours=0.75))
    assert start._new_attempt(cheap, 2, CHOICES[1], [earlier], {1: end}).max_minutes == 15


def test_nothing_is_started_when_the_money_is_spent(aws, ground):
    run = make_run(aws, limits=replace(QUICK, max_cost=0.25))
    earlier, end = lost(1, CHOICES[0])
    run.record.write_attempt(earlier, None)
    run.record.write_end(1, end)
    with pytest.raises(SpentError, match=f"resume {NAME} --max-cost"):
        start_attempt(run, 2, ground, nothing)
    assert aws.machines == []


def test_choice_above_the_money_left_is_passed_over(aws):
    dear = replace(choice(), dollars_per_hour=60.0, dollars=60.0)
    run = make_run(aws, [dear, CHOICES[1]], limits=replace(QUICK, max_cost=0.5))
    assert start_attempt(run, 1, make_ground(run), nothing).zone == CHOICES[1].zone


def test_claim_of_long_ago_that_never_started_is_written_off(aws, run, ground):
    claim = start._new_attempt(run, 1, CHOICES[0], [], {})
    etag = run.record.write_attempt(claim, None)
    write_off_stale(run, 1)
    assert run.record.read_end(1) is None  # it may be starting now
    old = replace(claim, deadline="2026-01-01T00:00:00+00:00")
    run.record.write_attempt(old, etag)
    write_off_stale(run, 1)
    assert run.record.read_end(1).state == INTERRUPTED


def test_claim_of_long_ago_whose_instance_runs_is_not_written_off(aws, run, ground):
    claim = start._new_attempt(run, 1, CHOICES[0], [], {})
    old = replace(claim, deadline="2026-01-01T00:00:00+00:00")
    run.record.write_attempt(old, None)
    start.start_instance(run.plan, old, start._place(run, old, ground))
    write_off_stale(run, 1)
    assert run.record.read_end(1) is None


def test_interrupted_places_come_later_and_on_demand_after_a_few():
    first, second, other, on_demand = CHOICES
    attempts, ends = [], {}

    def order():
        return order_choices(CHOICES, attempts, ends)

    assert order() == CHOICES
    for number, where in enumerate((first, second), 1):
        attempt, ends[number] = lost(number, where)
        attempts.append(attempt)
    assert order() == [other, first, second, on_demand]
    attempt, ends[3] = lost(3, other)
    attempts.append(attempt)
    assert order() == [on_demand, first, second, other]


@pytest.mark.parametrize("gpu", ["", "T4"])
def test_run_goes_on_with_the_kind_of_processor_that_it_was_begun_on(gpu):
    choices = [choice(), replace(choice("g4dn.xlarge"), gpu="T4")]
    begun = next(c for c in choices if c.gpu == gpu)
    attempt, end = lost(1, begun)
    assert order_choices(choices, [attempt], {1: end}) == [begun]
    never_started = replace(attempt, launched=None, instance_id=None)
    assert order_choices(choices, [never_started], {1: end}) == choices


def test_attempt_that_ended_well_is_no_reason_to_go_elsewhere():
    attempt, end = lost(1, CHOICES[0])
    assert order_choices(CHOICES, [attempt], {1: replace(end, state=DONE)}) == CHOICES


def test_choice_without_a_zone_takes_the_same_subnet_each_time(aws):
    run = make_run(aws, choices=[choice(zone="")])
    ground = make_ground(run)
    first = start_attempt(run, 1, ground, nothing)
    claim = start._new_attempt(run, 1, run.choices[0], [], {})
    place = start._place(run, claim, ground)
    assert place == start._place(run, claim, make_ground(run))
    assert first.zone  # as EC2 chose


def test_defaults_bound_every_run():
    assert Limits().max_hours < float("inf")
    assert Limits().max_attempts < float("inf")
