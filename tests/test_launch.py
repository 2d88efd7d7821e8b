"""Launch: the story of a run, with instances that do as told: what is said, fetched and left."""

import hashlib
import json
import threading
from dataclasses import asdict, replace

import pytest

from cloud import launch
from cloud.aws import AwsError, CloudError
from cloud.launch import (
    ENDED_EARLY,
    FAILURE,
    NOT_RESTARTED,
    OK,
    begin_run,
    change_limits,
    find_live,
    is_done,
    see_through,
    start_first,
    start_next,
    stop_run,
)
from cloud.order import Order, dry_run_lines, plan_run
from cloud.permissions import policies
from cloud.plan import SPOT, Constraints, PlanError
from cloud.run_record import (
    DONE,
    FAILED,
    INTERRUPTED,
    LIMIT,
    STOPPED,
    AttemptEnd,
    Latest,
    utc_now,
)
from cloud.start import Run
from cloud.user_data import user_data
from tests.aws_world import REGION
from tests.launching import QUICK, Listener, make_ground, make_run
from tests.steady import wait_until

VIDEOS = {"data/ads/a.mp4": b"a" * 1000, "data/games/b.mp4": b"b" * 1000}
REPORT = b"report"


@pytest.fixture
def screen():
    return Listener()


def run_whose_instances(aws, act, **changes):
    """A run; `act(run, number, machine)` is what each instance does a moment after its start."""
    run = make_run(aws, **changes)

    def begin(machine) -> None:
        threading.Timer(0.1, act, (run, len(aws.machines), machine)).start()

    aws.change_machine = begin
    return run


def vanish(run, number, machine) -> None:
    machine.vanish()


def ending(aws, state: str, reason: str = ""):
    """What an instance does that sends its results and ends like that."""

    def act(run, number, machine) -> None:
        sha256 = hashlib.sha256(REPORT).hexdigest()
        file = {"sha256": sha256, "size_bytes": len(REPORT)}
        latest = Latest({"report.html": file}, number, utc_now())
        end = AttemptEnd(state, reason, 0, utc_now(), 0.02)
        for name, content in (
            (f"attempts/{number}.log", b"it printed this"),
            (f"files/{sha256}/report.html", REPORT),
            ("latest.json", json.dumps(asdict(latest)).encode()),
            (f"attempts/{number}-end.json", json.dumps(asdict(end)).encode()),
        ):
            aws.put(run.plan.bucket, f"runs/{run.plan.run}/{name}", content)

    return act


def follow(run, root, screen) -> int:
    attempt = start_first(run, make_ground(run), screen)
    return see_through(run, attempt, root, screen)


# --- the plan


def test_plan_names_choices_limits_and_owner_and_begins_nothing(aws):
    bucket = aws.new_bucket(**VIDEOS)
    planned = plan_run(Order(bucket, constraints=Constraints(markets=(SPOT,), max_cost=5.0)))
    assert planned.region == REGION
    assert {choice.market for choice in planned.choices} == {SPOT}
    assert planned.limits.max_cost == 5.0
    assert planned.limits.max_hours >= 1
    assert any(line.startswith("limits") and "$5" in line for line in planned.lines)
    writes = {"RunInstances", "CreateSecurityGroup", "CreateRole", "PutObject", "CreateSchedule"}
    assert not writes & {call.name for call in aws.calls}


def test_plan_that_costs_too_much_is_refused(aws):
    bucket = aws.new_bucket(**VIDEOS)
    with pytest.raises(PlanError, match="above --max-cost 0.001"):
        plan_run(Order(bucket, constraints=Constraints(max_cost=0.001)))


def test_instances_beyond_the_quota_are_no_choice(aws):
    bucket = aws.new_bucket(**VIDEOS)
    aws.quotas["L-3819A6DF"] = aws.quotas["L-DB2E81BA"] = 0.0  # GPUs, as of a new account
    planned = plan_run(Order(bucket))
    assert not any(choice.gpu for choice in planned.choices)
    aws.fail("GetServiceQuota", "denied", count=99)
    assert any(choice.gpu for choice in plan_run(Order(bucket)).choices)


def test_dry_run_prints_every_call_that_a_run_makes_and_the_policies(aws, tmp_path, screen):
    bucket = aws.new_bucket(**VIDEOS)
    planned = plan_run(Order(bucket))
    text = "\n".join(dry_run_lines(planned))
    documents = policies(bucket, REGION, planned.account)
    for document in documents.values():
        for line in json.dumps(document, indent=2).splitlines():
            assert line in text
    (tmp_path / "cost_optimized_train.py").write_text("")
    run, ground = begin_run(planned, tmp_path, screen)
    attempt = start_first(run, ground, screen)
    launch.close_attempt(run, attempt, screen)
    made = ("CreateRole", "PutRolePolicy", "CreateInstanceProfile", "AddRoleToInstanceProfile")
    for call in {call.name for call in aws.calls if call.side == "laptop"} - set(made):
        name = {"HeadObject": "GetObject", "DescribeVolumes": "DescribeInstances"}.get(call, call)
        assert name in text, call


# --- the start


def test_begun_run_is_on_record_with_its_code_and_known_here(aws, screen, tmp_path):
    bucket = aws.new_bucket(**VIDEOS)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print()")
    order = Order(bucket, script="train.py", overrides=("--epochs", "3"))
    run, _ = begin_run(plan_run(order), tmp_path / "project", screen)
    assert run.record.read_plan() == run.plan
    assert run.plan.overrides == ["--epochs", "3"]
    code = aws.objects(bucket)[f"runs/{run.plan.run}/code.tar.gz"]
    assert launch.take_snapshot(tmp_path / "project").content == code
    known = json.loads((tmp_path / "project/runs/aws" / f"{run.plan.run}.json").read_text())
    assert known["bucket"] == bucket
    assert aws.machines == []


def test_script_that_is_not_there_is_noticed_before_anything_is_made(aws, screen, tmp_path):
    planned = plan_run(Order(aws.new_bucket(**VIDEOS), script="none.py"))
    with pytest.raises(CloudError, match=r"none\.py is no file"):
        begin_run(planned, tmp_path, screen)
    assert not aws.called("CreateRole")


def test_refused_start_says_what_is_left(aws, screen):
    run = make_run(aws)
    ground = make_ground(run)
    aws.fail("RunInstances", "denied", count=9)
    with pytest.raises(AwsError):
        start_first(run, ground, screen)
    assert screen.has("no instance; roles, security group")


# --- to the end


def test_finished_run_is_fetched_priced_and_gone(aws, screen, tmp_path):
    run = run_whose_instances(aws, ending(aws, DONE))
    assert follow(run, tmp_path, screen) == OK
    assert (tmp_path / "runs" / run.plan.run / "report.html").read_text() == "report"
    assert (tmp_path / "runs" / "latest" / "report.html").exists()
    assert screen.has("report.html")
    assert screen.has("is terminated")
    assert screen.has("$0.020 for 1 instance")
    assert aws.wait_until_empty(10)
    assert aws.schedules() == []


def test_interrupted_run_goes_on_elsewhere(aws, screen, tmp_path):
    done = ending(aws, DONE)
    run = run_whose_instances(aws, lambda *about: (vanish if about[1] < 3 else done)(*about))
    assert follow(run, tmp_path, screen) == OK
    zones = [(a.instance_type, a.zone) for a in run.record.read_attempts()]
    assert len(set(zones)) == 3
    assert run.record.read_end(2).state == INTERRUPTED
    assert aws.wait_until_empty(10)


def test_two_launchers_that_follow_go_on_with_the_same_next_instance(aws, screen, tmp_path):
    run = run_whose_instances(aws, lambda run, number, machine: None)
    first = start_first(run, make_ground(run), screen)
    aws.machines[0].vanish()
    second = Run(run.plan, run.record)
    found = []

    def follow_on(one):
        launch.Follower(one, first, Listener()).until_end()
        found.append(launch._start_again(one, 1, make_ground(one), Listener()))

    threads = [threading.Thread(target=follow_on, args=(one,)) for one in (run, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [attempt.number for attempt in found] == [2, 2]
    assert len(aws.machines) == 2
    run.record.write_end(2, AttemptEnd(DONE, "", 0, utc_now(), 0.0))
    late = launch._start_again(second, 1, make_ground(run), screen)  # the other one saw it end
    assert late.number == 2
    assert see_through(second, late, tmp_path, screen) == OK
    assert len(aws.machines) == 2


def test_failed_run_is_not_started_again_and_shows_its_last_lines(aws, screen, tmp_path):
    run = run_whose_instances(aws, ending(aws, FAILED, "disk-full"))
    assert follow(run, tmp_path, screen) == FAILURE
    assert screen.has("| it printed this")
    assert screen.has("disk-full: mend it")
    assert len(aws.machines) == 1
    assert aws.wait_until_empty(10)


def test_run_at_its_limit_says_how_to_go_on(aws, screen, tmp_path):
    run = run_whose_instances(aws, ending(aws, LIMIT, "max-hours"))
    assert follow(run, tmp_path, screen) == ENDED_EARLY
    assert screen.has("--max-hours HOURS")
    assert run.record.read_end(1).state == LIMIT


def test_attempts_are_counted(aws, screen, tmp_path):
    run = run_whose_instances(aws, vanish, limits=replace(QUICK, max_attempts=2))
    assert follow(run, tmp_path, screen) == NOT_RESTARTED
    assert len(aws.machines) == 2
    assert screen.has("not started again: after 2 instances")
    assert screen.has(f"resume {run.plan.run}")


def test_interruption_without_another_instance_is_said_after_some_looks(aws, screen, tmp_path):
    run = run_whose_instances(aws, vanish)
    attempt = start_first(run, make_ground(run), screen)
    aws.capacity = lambda *_: "InsufficientInstanceCapacity"
    assert see_through(run, attempt, tmp_path, screen) == NOT_RESTARTED
    assert screen.has("next look in")
    assert screen.has("not started again: AWS has none")
    assert aws.wait_until_empty(10)


def test_results_that_can_not_be_fetched_are_said_to_be_safe(aws, screen, tmp_path):
    run = run_whose_instances(aws, ending(aws, DONE))
    attempt = start_first(run, make_ground(run), screen)
    aws.fail("GetObject", "denied", count=99, part="/files/")
    aws.fail("HeadObject", "denied", count=99, part="/files/")
    assert see_through(run, attempt, tmp_path, screen) == FAILURE
    assert screen.has("are safe in s3://")
    assert screen.has(f"fetch {run.plan.run}")
    assert aws.wait_until_empty(10)


def test_ctrl_c_leaves_it_running_and_says_what_to_do(aws, screen, tmp_path, monkeypatch):
    run = make_run(aws)
    attempt = start_first(run, make_ground(run), screen)

    def interrupt(self, seconds=0):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.Follower, "until_end", interrupt)
    assert see_through(run, attempt, tmp_path, screen) == 130
    assert aws.left() == [attempt.instance_id]
    for verb in ("status", "logs", "fetch", "stop", "resume"):
        assert screen.has(f"./run_training.sh {verb} {run.plan.run}")


def test_ctrl_c_on_a_terminal_may_stop_it(aws, screen, tmp_path, monkeypatch):
    run = make_run(aws)
    attempt = start_first(run, make_ground(run), screen)
    until_end = launch.Follower.until_end

    def interrupt(self, seconds=None):
        if seconds is None:
            raise KeyboardInterrupt
        return until_end(self, seconds)

    monkeypatch.setattr(launch.Follower, "until_end", interrupt)
    screen.is_terminal, screen.ask = True, lambda question: "s"
    assert see_through(run, attempt, tmp_path, screen) == 130
    assert aws.wait_until_empty(10)
    assert run.record.read_end(1).state == STOPPED


# --- stop and resume


def test_stopped_run_ends_as_the_instance_says(aws, screen, tmp_path):
    def act(run, number, machine):
        wait_until(lambda: aws.objects(run.plan.bucket, f"runs/{run.plan.run}/stop.json"))
        ending(aws, STOPPED, "asked")(run, number, machine)

    run = run_whose_instances(aws, act, limits=replace(QUICK, stop_seconds=30.0))
    attempt = start_first(run, make_ground(run), screen)
    assert stop_run(run, attempt, tmp_path, screen) == ENDED_EARLY
    assert run.record.read_end(1).reason == "asked"
    assert aws.wait_until_empty(10)


def test_instance_that_does_not_stop_is_ended(aws, screen, tmp_path):
    run = make_run(aws)
    attempt = start_first(run, make_ground(run), screen)
    assert stop_run(run, attempt, tmp_path, screen) == ENDED_EARLY
    assert "did not end within 1 s" in run.record.read_end(1).reason
    assert aws.wait_until_empty(10)
    assert aws.schedules() == []


def test_live_attempt_is_found_and_one_that_vanished_is_written_off(aws, screen):
    run = make_run(aws)
    assert find_live(run) is None
    attempt = start_first(run, make_ground(run), screen)
    assert find_live(run) == attempt
    aws.machines[0].vanish()
    assert aws.wait_until_empty(10)
    assert find_live(run) is None
    assert run.record.read_end(1).state == INTERRUPTED
    assert not is_done(run)


def test_resumed_run_gets_the_next_attempt_and_the_old_stop_is_not_its(aws, screen, tmp_path):
    run = make_run(aws)
    stop_run(run, start_first(run, make_ground(run), screen), tmp_path, screen)
    attempt = start_next(run, screen)
    assert attempt.number == 2
    assert run.record.stop_reason(1)
    assert run.record.stop_reason(2) is None
    assert user_data(run.plan, attempt).count("ADGAME_ATTEMPT=2") == 1


def test_done_run_is_known_as_done(aws):
    run = make_run(aws)
    run.record.write_attempt(launch.Attempt(1, "", "", "", "", 0, 1, 0, "", ""), None)
    assert not is_done(run)
    run.record.write_end(1, AttemptEnd(DONE, "", 0, utc_now(), 0.0))
    assert is_done(run)
    assert find_live(run) is None


def test_changed_limits_are_on_record(aws):
    run = make_run(aws)
    changed = change_limits(run, max_hours=9.0, max_cost=None)
    assert changed.record.read_plan().limits == replace(QUICK, max_hours=9.0)
    assert change_limits(run, max_hours=None) is run
