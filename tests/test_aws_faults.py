"""Faults of a run on AWS: whatever fails, no instance is left and no finished epoch is lost.

Each test is one or more fault points of the real launcher, `train_on_aws.py`, against the made AWS,
whose instances really run their start script; the training is a short one. What was found stands in
runs/benchmarks/aws_faults.md, and the counts in aws_faults.json, once all of it has run.
"""

import contextlib
import json
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.aws_world import INSTANCE, LAPTOP
from tests.machines import Machine
from tests.trials import EPOCHS, Book, Trial, kill_all, write_table

EC2_CALLS = (
    *("DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory", "DescribeImages"),
    *("DescribeVpcs", "DescribeSubnets", "DescribeSecurityGroups", "CreateSecurityGroup"),
    *("RunInstances", "DescribeInstances", "TerminateInstances", "DescribeVolumes"),
)
IAM_CALLS = (
    *("GetRole", "CreateRole", "GetRolePolicy", "PutRolePolicy", "GetInstanceProfile"),
    *("CreateInstanceProfile", "AddRoleToInstanceProfile"),
)
S3_CALLS = ("GetBucketLocation", "ListObjectsV2", "PutObject", "GetObject", "HeadObject")
OTHER_CALLS = (
    *("GetCallerIdentity", "GetProducts", "GetServiceQuota", "GetParameter"),
    *("CreateSchedule", "DeleteSchedule"),
)
LAPTOP_CALLS = {*EC2_CALLS, *IAM_CALLS, *S3_CALLS, *OTHER_CALLS}
INSTANCE_CALLS = {"GetObject", "PutObject", "HeadObject", "ListObjectsV2", "DeleteObjects"}
# A run does without what these would say.
DISPENSABLE = {
    *("DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory", "GetProducts"),
    *("GetServiceQuota",),
}
# Made use of once there is an instance.
LATE = {
    "CreateSchedule",
    "DescribeVolumes",
    "DescribeInstances",
    "TerminateInstances",
    "DeleteSchedule",
    "HeadObject",
}
FEWEST_POINTS = 40  # with fewer, only some of the tests were asked for
ICE = "InsufficientInstanceCapacity"
TRAINER, ATTEMPT, GUARD, WATCHER = "short_train.py", "cloud.attempt", "cloud.guard", "watcher"


@pytest.fixture(scope="session")
def whole_book(request, tmp_path_factory):
    """Shared by all workers; who finds it complete writes the table."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "fault-points"
    folder.mkdir(exist_ok=True)
    book = Book(folder)
    yield book
    rows, path = book.all_rows(), Path(__file__)
    wanted = {item.name for item in request.session.items if item.path == path}
    is_part = any(request.config.getoption(name) for name in ("keyword", "markexpr", "lf"))
    if not is_part and {row.test for row in rows} >= wanted and len(rows) >= FEWEST_POINTS:
        write_table(rows)


@pytest.fixture
def book(request, whole_book):
    whole_book.test = request.node.name
    return whole_book


@pytest.fixture
def trial(tmp_path, book):
    trial = Trial(tmp_path, book)
    yield trial
    trial.close()


def test_time_that_is_used_up(trial):
    """First, since a minute is the shortest that a run can be given, and others can go beside."""
    trial.limit(max_hours=1.02 / 60)
    said = trial.run(overrides=("--epoch-seconds", "8", "--epochs", "50"))
    trial.check("the time that is allowed is used up", said, code=3, says="--max-hours")
    trial.check_end("limit", "used up")
    assert trial.saved_epochs() >= 1


# Calls that fail


@pytest.mark.parametrize("how", ["throttled", "reset", "lost"])
def test_each_call_fails_once(trial, how):
    for side, names in ((LAPTOP, LAPTOP_CALLS), (INSTANCE, INSTANCE_CALLS)):
        for name in names:
            trial.world.fail(name, how, side=side)
    said = trial.run()
    points = [f"{name} of the laptop fails once" for name in sorted(LAPTOP_CALLS)]
    points += [f"{name} of the instance fails once" for name in sorted(INSTANCE_CALLS)]
    trial.check(points, said, code=0, finished=True)
    assert len(trial.world.machines) == 1
    for side, names in ((LAPTOP, LAPTOP_CALLS), (INSTANCE, INSTANCE_CALLS)):
        called = {call.name for call in trial.world.calls if call.side == side}
        assert called == names, "a call that is not tested, or one that is no more"


@pytest.mark.parametrize("name", sorted(LAPTOP_CALLS - DISPENSABLE - LATE))
def test_call_that_is_always_refused_stops_it_before_anything_is_paid_for(trial, name):
    trial.world.fail(name, "denied", count=9999, side=LAPTOP)
    said = trial.run()
    fault = f"{name} of the laptop is always refused"
    trial.check(fault, said, code=1, says="(?i)(allow|denied|refused)", bound_seconds=5)
    assert name in said[1] or name in S3_CALLS
    assert trial.world.machines == []


def test_it_does_without_what_only_helps_to_choose(trial):
    for name in DISPENSABLE:
        trial.world.fail(name, "denied", count=9999, side=LAPTOP)
    said = trial.run()
    points = [f"{name} of the laptop is always refused" for name in sorted(DISPENSABLE)]
    trial.check(points, said, code=0, finished=True, says="bundled table")


def test_instance_without_an_end_from_outside_is_not_kept(trial):
    trial.world.fail("CreateSchedule", "denied", count=9999)
    said = trial.run()
    fault = "CreateSchedule of the laptop is always refused"
    trial.check(fault, said, code=1, says="scheduler:CreateSchedule")
    assert trial.world.called("TerminateInstances")


@pytest.mark.parametrize("name", ["DescribeInstances", "DeleteSchedule", "TerminateInstances"])
def test_results_come_home_where_the_end_can_not_be_seen(trial, name):
    trial.world.fail(name, "denied", count=9999, side=LAPTOP)
    said = trial.run()
    fault = f"{name} of the laptop is always refused"
    trial.check(fault, said, code=1 if name == "DescribeInstances" else 0, finished=True)


# Capacity


def test_no_capacity_anywhere(trial):
    trial.world.capacity = lambda market, kind, zone: ICE
    said = trial.run("--any")
    trial.check("no capacity anywhere", said, code=1, says="AWS has none of the", bound_seconds=5)
    asked = {call.parameters["ClientToken"] for call in trial.world.called("RunInstances")}
    assert len(asked) == len(trial.world.called("RunInstances")) > 10, "some were asked twice"


@pytest.mark.parametrize(
    "code", [ICE, "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow", "VcpuLimitExceeded"]
)
def test_capacity_on_demand_alone(trial, code):
    trial.world.capacity = lambda market, kind, zone: code if market == "spot" else None
    said = trial.run()
    trial.check(f"{code} on spot", said, code=0, finished=True)
    assert trial.world.machines[0].hardware.market == "on-demand"


@pytest.mark.parametrize("code", ["InvalidParameterValue", "InternalError"])
def test_refusal_that_no_other_choice_would_mend_stops_at_once(trial, code):
    trial.world.fail("RunInstances", code, count=9999)
    said = trial.run()
    trial.check(f"RunInstances answers {code} always", said, code=1, says=code, bound_seconds=5)
    tokens = {call.parameters["ClientToken"] for call in trial.world.called("RunInstances")}
    assert len(tokens) == 1


# The launcher is killed, or leaves


@pytest.mark.parametrize(
    ("name", "part", "how", "stage"),
    [
        ("PutObject", "code.tar.gz", "lost", "after the code was sent"),
        ("PutObject", "plan.json", "lost", "after the plan was written"),
        ("PutObject", "attempts/1.json", "lost", "after it claimed the first attempt"),
        ("RunInstances", "", "reset", "before the instance is asked for"),
        ("RunInstances", "", "lost", "before it learns of its instance"),
        ("CreateSchedule", "", "reset", "before the end is scheduled"),
        ("CreateSchedule", "", "lost", "after the end was scheduled"),
        ("DescribeInstances", "", "", "when it begins to follow"),
    ],
)
def test_killed_launcher_leaves_nothing_and_resume_goes_on(trial, name, part, how, stage):
    launchers = []
    act = lambda: launchers[0].signal(signal.SIGKILL)  # noqa: E731
    trial.world.fail(name, how, part=part, side=LAPTOP, act=act)
    launchers.append(trial.start())
    assert launchers[0].finish()[0] == -signal.SIGKILL
    fault = f"launcher killed {stage}"
    if not trial.run_name:
        trial.check(fault, (None, ""), code=None, bound_seconds=5)
        return
    said = trial.resume()
    trial.check(fault, said, code=0, finished=True)


@pytest.mark.parametrize("epoch", [1, EPOCHS - 1])
def test_launcher_killed_while_it_trains(trial, epoch):
    launcher = trial.start()
    trial.wait_for_epoch(epoch)
    killed = launcher.kill()
    fault = f"launcher killed in epoch {epoch + 1}"
    assert trial.world.wait_until_empty(60)
    assert killed[0] is None
    said = trial.resume()
    trial.check(fault, said, code=0, finished=True)
    assert len(trial.world.machines) == 1


def test_launcher_killed_and_the_instance_lost(trial):
    launcher = trial.start()
    machine = trial.wait_for_epoch(2)
    launcher.kill()
    machine.interrupt(2)
    assert trial.world.wait_until_empty(60)
    said = trial.resume()
    trial.check("launcher killed, then the instance lost", said, code=0, finished=True)
    assert len(trial.world.machines) == 2


def test_ctrl_c_leaves_it_running_and_says_so(trial):
    launcher = trial.start()
    trial.wait_for_epoch(1)
    launcher.signal(signal.SIGINT)
    said = launcher.finish()
    trial.check("Ctrl-C of the launcher", said, code=130, says="resume")
    assert trial.verb("fetch")[0] == 0


def test_two_launchers_of_one_run_share_its_instance(trial):
    launcher = trial.start()
    trial.wait_for_epoch(1)
    second = trial.resume()
    first = launcher.finish()
    assert second[0] == 0, second[1]
    trial.check("a second launcher for the same run", first, code=0, finished=True)
    assert len(trial.world.machines) == 1


# The laptop's network


@pytest.mark.parametrize("until", ["training", "end"])
def test_laptop_without_network(trial, until):
    """For ten minutes, by the clock of this world."""
    launcher = trial.start()
    machine = trial.wait_for_epoch(1)
    with trial.world.laptop_cut_off():
        if until == "end":
            assert machine.wait(90)
        time.sleep(2)
    said = launcher.finish()
    fault = f"laptop without network for ten minutes, until {until}"
    trial.check(fault, said, code=0, finished=True)
    assert len(trial.world.machines) == 1


def test_laptop_asleep(trial):
    launcher = trial.start()
    machine = trial.wait_for_epoch(1)
    launcher.signal(signal.SIGSTOP)
    assert machine.wait(90)
    time.sleep(2)
    launcher.signal(signal.SIGCONT)
    trial.check("laptop asleep until the end", launcher.finish(), code=0, finished=True)


# The start script


def refuse_code(trial):
    trial.world.fail("GetObject", "denied", count=99, side=INSTANCE, part="code.tar.gz")


def spoil_code(trial):
    def act():
        key = next(k for k in trial.world.objects(trial.bucket) if k.endswith("code.tar.gz"))
        trial.world.put(trial.bucket, key, b"something else")

    trial.world.fail("GetObject", "", side=INSTANCE, part="code.tar.gz", act=act)


def change_machines(trial, change):
    def both(machine: Machine) -> None:
        machine.hurry()
        change(machine)

    trial.world.change_machine = both


def no_python(trial):
    def change(machine):
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            machine.add_tool(name, "#!/bin/sh\nexit 127\n")

    change_machines(trial, change)


def set_up_with(trial, what):
    def change(machine):
        (machine.home / ".venv" / "set-up-done").unlink()
        version = '[ "$1" = --version ] && echo "pipenv, version 2099.1.0" && exit'
        machine.add_tool("pipenv", f"#!/bin/sh\n{version}\n{what}\n")

    change_machines(trial, change)


def set_up_fails(trial):
    set_up_with(trial, 'echo "No space left on device"; exit 1')


def set_up_hangs(trial):
    trial.limit(set_up_minutes=0.08)
    set_up_with(trial, "exec /bin/sleep 60")


def preparing_fails(trial):
    text = "import sys\nsys.exit('error: no video can be read')\n"
    (trial.laptop.folder / "prepare_data.py").write_text(text)


def preparing_is_killed(trial):
    text = "import os\nos.kill(os.getpid(), 9)\n"
    (trial.laptop.folder / "prepare_data.py").write_text(text)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (refuse_code, "fetching the code failed"),
        (spoil_code, "fetching the code failed"),
        (no_python, "no Python 3.11 to 3.13"),
        (set_up_fails, "setting up the environment failed.*No space left"),
        (set_up_hangs, "setting up the environment failed.*took more than"),
        (preparing_fails, "no video can be read"),
        (preparing_is_killed, "preparing the videos was killed by signal 9"),
    ],
)
def test_start_script_that_fails_at_a_step_says_where_and_powers_off(trial, fault, words):
    fault(trial)
    said = trial.run()
    trial.check(f"start: {fault.__name__.replace('_', ' ')}", said, code=1, says=words)
    trial.check_end("failed", words)
    assert len(trial.world.machines) == 1


def test_instance_without_its_role_powers_off(trial):
    change_machines(trial, lambda machine: setattr(machine, "credentials", lambda: None))
    trial.limit(max_attempts=2)
    said = trial.run()
    trial.check("start: the instance has no role", said, code=4, says="not started again")


# Kill -9


@pytest.mark.parametrize(
    ("words", "state", "reason"),
    [
        ((TRAINER,), "failed", "killed by signal 9"),
        ((ATTEMPT,), "failed", "was killed|without a word"),
        (("user-data",), "failed", "start script was killed"),
        ((ATTEMPT, "user-data"), "failed", "killed|without a word"),
        ((ATTEMPT, TRAINER), "failed", "killed|without a word"),
        ((GUARD,), "done", "trained"),
        ((WATCHER,), "done", "trained"),
        ((GUARD, WATCHER), "done", "trained"),
        ((GUARD, WATCHER, ATTEMPT), "failed", "killed|without a word"),
    ],
)
def test_kill_9_on_the_instance(trial, words, state, reason):
    launcher = trial.start(overrides=("--epoch-seconds", "0.4"))
    machine = trial.wait_for_epoch(2)
    script = str(machine.folder / "user-data")
    found = machine.signal(*(script if word == "user-data" else word for word in words))
    assert found, machine.console
    said = launcher.finish()
    fault = f"kill -9 of {', '.join(words).replace('user-data', 'the start script')}"
    trial.check(fault, said, code=0 if state == "done" else 1, finished=state == "done")
    trial.check_end(state, reason)


def test_kill_9_of_all_on_the_instance(trial):
    launcher = trial.start(overrides=("--epoch-seconds", "1"))
    machine = trial.wait_for_saved(1)
    kill_all(machine)
    trial.world.pass_minutes(30)  # that the run may take
    said = launcher.finish()
    fault = "kill -9 of every process: the timer ends it, the next instance goes on"
    trial.check(fault, said, code=0, finished=True, grace_seconds=6)
    assert machine.asked[0][0] == "shutdown"
    assert machine.asked[1][0] == "systemd-run"


def test_all_killed_and_timers_gone(trial):
    launcher = trial.start(overrides=("--epoch-seconds", "1"))
    machine = trial.wait_for_saved(1)
    launcher.kill()
    kill_all(machine)
    machine.forget_timers()
    assert not trial.world.wait_until_empty(1)
    trial.world.pass_minutes(45)
    assert trial.world.wait_until_empty(60)
    assert machine.ended == "terminated: by its schedule"
    said = trial.resume()
    fault = "launcher and all processes killed, timers gone: EventBridge ends it"
    trial.check(fault, said, code=0, finished=True, grace_seconds=6)


def test_reap_ends_what_nothing_else_does(trial):
    launcher = trial.start(overrides=("--epoch-seconds", "1"))
    machine = trial.wait_for_saved(1)
    launcher.kill()
    kill_all(machine)
    machine.forget_timers()
    for name in trial.world.schedules():
        trial.world.client("scheduler").delete_schedule(Name=name)
    said = trial.laptop.run("reap", "--all")
    fault = "launcher and all processes killed, timers and EventBridge gone: reap ends it"
    trial.check(fault, said, code=0, says="nothing of ours is billed", grace_seconds=6)
    assert machine.id in said[1]


@pytest.mark.parametrize("which", ["attempt", "all"])
def test_frozen_instance_is_given_up_and_the_next_goes_on(trial, which):
    trial.limit(silent_seconds=8)
    trial.world.clock.stop_seconds = 3
    launcher = trial.start(overrides=("--epoch-seconds", "1"))
    machine = trial.wait_for_saved(1)
    if which == "all":
        for process in machine.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
    else:
        machine.signal(ATTEMPT, number=signal.SIGSTOP)
    said = launcher.finish()
    fault = f"frozen: {which} of the instance's processes"
    trial.check(fault, said, code=0, finished=True, says="no heartbeat", grace_seconds=6)


def test_shutdown_that_does_not_work_at_first(trial):
    def change(machine):
        ask, tries = machine.folder / "bin" / "poweroff", machine.folder / "tries"
        text = f'#!/bin/bash\necho x >>"{tries}"\n[[ $(wc -l <"{tries}") -lt 4 ]] && exit 1\n'
        machine.add_tool("shutdown", f'{text}exec "{ask}"\n')

    change_machines(trial, change)
    trial.check("shutdown fails three times", trial.run(), code=0, finished=True)


def test_shutdown_that_never_works(trial):
    change_machines(trial, lambda machine: machine.add_tool("shutdown", "#!/bin/sh\nexit 1\n"))
    said = trial.run()
    trial.check("shutdown never works: the laptop terminates", said, code=0, finished=True)
    assert trial.world.called("TerminateInstances")


# The training


@pytest.mark.parametrize(
    ("flag", "fault", "idle_minutes", "reason"),
    [
        ("--fail-at", "the training fails", 15, "a mistake in the training"),
        ("--disk-full-at", "the disk is full", 15, "disk is full"),
        ("--hang-at", "the training hangs, idle", 0.1, "neither progress nor use"),
        ("--spin-at", "the training hangs, spinning", 0.06, "busy, but nothing was written"),
    ],
)
def test_training_that_goes_wrong_ends_the_instance(trial, flag, fault, idle_minutes, reason):
    trial.limit(idle_minutes=idle_minutes)
    said = trial.run(overrides=(flag, "2"))
    trial.check(fault, said, code=1, says=reason)
    trial.check_end("failed", reason)
    assert json.loads(trial.saved()["last.ckpt"])["epoch"] >= 1


def test_stop_saves_and_resume_goes_on(trial):
    launcher = trial.start(overrides=("--epoch-seconds", "2"))
    trial.wait_for_epoch(1)
    code, said = trial.verb("stop")
    assert code == 0, said
    trial.check("stop from the laptop", launcher.finish(), code=3, says="resume")
    trial.check_end("stopped", "")
    code, said = trial.resume()
    assert code == 0, said
    trial.check("resume after stop", (code, said), code=0, finished=True)


def test_stop_of_a_training_that_does_not_hear(trial):
    launcher = trial.start("--detach", overrides=("--hang-at", "2"))
    assert launcher.finish()[0] == 0
    trial.wait_for_epoch(2)
    said = trial.verb("stop")
    trial.check("stop of a hung training", said, code=0)


# Spot


@pytest.mark.parametrize("seed", range(4))
def test_notice_at_any_time(trial, seed):
    seconds = random.Random(seed).uniform(0.0, 4.0)
    launcher = trial.start()
    machine = trial.machine()
    time.sleep(seconds)
    machine.interrupt(4)
    said = launcher.finish()
    trial.check(f"spot notice, {seconds:.1f} s after the start", said, code=0, finished=True)


def test_interrupted_five_times_it_ends_where_an_unbroken_one_does(trial):
    launcher = trial.start("--spot-only", overrides=("--epoch-seconds", "1.5"))
    for number in range(1, 6):
        machine = trial.wait_for_epoch(number - 1, number)
        machine.interrupt(4)
    said = launcher.finish()
    trial.check("five interruptions in one run", said, code=0, finished=True)
    assert len(trial.world.machines) == 6


def test_instance_that_vanishes_without_a_word(trial):
    launcher = trial.start(overrides=("--epoch-seconds", "1"))
    trial.wait_for_saved(1).vanish()
    said = launcher.finish()
    fault = "the instance vanishes without a word"
    trial.check(fault, said, code=0, finished=True, grace_seconds=6)


@pytest.mark.parametrize("how", ["terminate_instances", "stop_instances"])
def test_ended_by_hand_in_the_console(trial, how):
    launcher = trial.start(overrides=("--epoch-seconds", "0.4"))
    machine = trial.wait_for_epoch(2)
    getattr(trial.world.client("ec2"), how)(InstanceIds=[machine.id])
    said = launcher.finish()
    trial.check(f"{how} by hand", said, code=0, finished=True)


# S3


@pytest.mark.parametrize("how", ["busy", "reset", "denied"])
def test_s3_that_refuses_the_instance_for_a_while(trial, how):
    launcher = trial.start(overrides=("--epoch-seconds", "0.4"))
    trial.wait_for_epoch(1)
    faults = [trial.world.fail(n, how, count=9999, side=INSTANCE) for n in INSTANCE_CALLS]
    time.sleep(3)
    for fault in faults:
        fault.count = 0
    trial.check(f"S3 refuses for a while ({how})", launcher.finish(), code=0, finished=True)


def test_content_that_arrives_spoilt_is_sent_again(trial):
    fault = trial.world.fail("PutObject", "spoilt", count=4, after=6, side=INSTANCE, part="/files/")
    said = trial.run()
    assert fault.met > 6
    trial.check("what is sent to S3 arrives spoilt", said, code=0, finished=True)
