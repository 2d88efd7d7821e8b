"""A run on AWS as a person has it: the real launcher, the real scripts, a made AWS.

What fails on the way is in test_aws_faults.py.
"""

import json
import os
import re
import shutil

import pytest
from moto.iam.access_control import IAMRequestBase
from safetensors.torch import load_file

import cost_optimized_train
from benchmarks.figures import write_figures
from cloud.permissions import policies
from tests.aws_world import LAPTOP
from tests.laptops import Laptop
from tests.machines import Machine, wait_for
from tests.steady import Stopwatch
from tests.trainings import SMALL, flags, run_script
from tests.trials import EPOCHS, Trial

ROOMS = ("cloud", "utils", "training", "models")
S3_ACTIONS = {
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "DeleteObjects": "DeleteObject",
}
WHOLE_RUN_SECONDS = 90
DRY_RUN_SECONDS = 3
TRAINING = {**SMALL, "weights": "trunk.safetensors", "fine_tune_blocks": 0, "folds": 0}


@pytest.fixture
def trial(tmp_path):
    trial = Trial(tmp_path)
    yield trial
    trial.close()


@pytest.fixture
def real_trial(tmp_path, clips_folder, trunk_file):
    """With the real scripts and videos; the laptop's clone holds the weights of the trunk, too."""
    trial = Trial(tmp_path)
    trial.laptop = laptop = Laptop(trial.world, tmp_path / "clone", ROOMS)
    trial.limit(save_seconds=20)
    shutil.copy(trunk_file, laptop.folder)
    shutil.copytree(clips_folder, laptop.folder / "data", copy_function=os.link)
    trial.bucket = trial.world.new_bucket()
    yield trial
    trial.close()


def train(trial, **constants):
    words = ("run", trial.bucket, "--yes", "--spot-only", "--", *flags(**TRAINING, **constants))
    return trial.laptop.start(*words)


def test_whole_run_from_the_laptop_to_the_report(real_trial):
    trial = real_trial
    trial.world.change_machine = lambda machine: None  # as on EC2, the AWS command too
    code, said = trial.laptop.run("upload", trial.bucket)
    assert code == 0, said
    with Stopwatch() as watch:
        said = train(trial, epochs=3, head_learning_rate=0.01).finish()
    trial.check("whole run", said, code=0, says="training · epoch", bound_seconds=5)
    command = "python -m pytest tests/test_aws_run.py -k whole"
    write_figures("aws_run", {"whole_run_seconds": round(watch.seconds, 1)}, command)
    run = trial.laptop.folder / "runs" / trial.run_name
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["clips"] > 0
    assert "<html" in (run / "report.html").read_text()
    assert load_file(run / "best.safetensors")
    kept = {name: content for name, content in trial.saved().items() if name != "run.log"}
    assert all((run / name).read_bytes() == content for name, content in kept.items())
    assert any(key.startswith("store/") for key in trial.world.objects(trial.bucket))
    assert watch.seconds < 2 * WHOLE_RUN_SECONDS, "this computer may be busy, but not that busy"


def test_dry_run_tells_all_and_begins_nothing(trial):
    seconds = []
    for _ in range(3):
        with Stopwatch() as watch:
            code, said = trial.laptop.run("run", trial.bucket, "--dry-run")
        seconds.append(watch.seconds)
        assert code == 0, said
        if seconds[-1] < DRY_RUN_SECONDS:
            break
    assert min(seconds) < 2 * DRY_RUN_SECONDS
    for words in ("dollars", "RunInstances", "policy person", "ad-game-classifier-instance"):
        assert words in said
    verbs = {call.name for call in trial.world.calls}
    assert not {name for name in verbs if name.startswith(("Create", "Put", "Run", "Add"))}
    assert trial.run_name == ""


def test_run_that_is_left_is_watched_fetched_and_followed_again(trial):
    launcher = trial.start("--detach", overrides=("--epoch-seconds", "2"))
    code, said = launcher.finish()
    assert code == 0, said
    trial.wait_for_epoch(1)
    assert wait_for(lambda: re.search(r"epoch [1-5]/5", trial.verb("status")[1]), 30)
    assert trial.verb("fetch")[0] == 0
    assert json.loads(trial.fetched("last.ckpt"))["epoch"] >= 1
    code, said = trial.resume()
    trial.check("detached", (code, said), code=0, finished=True, says="attach")
    code, said = trial.verb("logs")
    assert code == 0
    assert f"epoch {EPOCHS}/{EPOCHS}" in said
    code, said = trial.laptop.run("status")
    assert trial.run_name in said
    assert "done" in said
    assert trial.resume()[0] == 0, "a finished run is fetched again"
    assert len(trial.world.machines) == 1


def test_run_needs_no_more_than_the_policies_that_are_printed(trial, monkeypatch):
    # moto computes another signature of the scheduler's requests that have a query.
    monkeypatch.setattr(IAMRequestBase, "check_signature", lambda self: None)
    person, iam = trial.laptop, trial.world.client("iam")
    account = trial.world.client("sts").get_caller_identity()["Account"]
    documents = policies(trial.bucket, "us-east-1", account)
    iam.create_user(UserName="anna")
    for name in ("person", "first_time"):
        document = json.dumps(opened(documents[name]))
        iam.put_user_policy(UserName="anna", PolicyName=name, PolicyDocument=document)
    keys = iam.create_access_key(UserName="anna")["AccessKey"]
    person.environment |= {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
    }
    with trial.world.policies_enforced():
        said = trial.run()
        trial.check("with these policies", said, code=0, finished=True)
    for call in (call for call in trial.world.calls if call.side == LAPTOP):
        name = S3_ACTIONS.get(call.name, call.name) if call.service == "s3" else call.name
        allowed = actions_of(documents["person"]) | actions_of(documents["first_time"])
        assert f"{call.service}:{name}" in allowed | {"sts:GetCallerIdentity"}


def opened(document: dict) -> dict:
    """For moto, which looks at resources of S3 alone; test_permissions.py reads the others."""
    return document | {
        "Statement": [
            statement if "s3:" in str(statement["Action"]) else statement | {"Resource": "*"}
            for statement in document["Statement"]
        ]
    }


def actions_of(document: dict) -> set[str]:
    found = [statement["Action"] for statement in document["Statement"]]
    return {a for actions in found for a in ([actions] if isinstance(actions, str) else actions)}


@pytest.mark.slow
def test_interrupted_five_times_its_weights_are_those_of_a_run_that_was_not(
    real_trial, clips_folder, trunk_file, tmp_path
):
    trial = real_trial
    how = {"epochs": 40, "patience": 1000, "head_learning_rate": 0.001, "batch_size": 2}
    for path in sorted(clips_folder.rglob("*.mp4")):
        key = f"data/{path.relative_to(clips_folder).as_posix()}"
        trial.world.put(trial.bucket, key, path.read_bytes())
    unbroken = {**TRAINING, **how, "weights": trunk_file}
    places = {"data_dir": clips_folder, "cache_dir": tmp_path / "c", "runs_dir": tmp_path / "r"}
    assert run_script(cost_optimized_train, *flags(**unbroken, **places)).code == 0
    expected = tmp_path / "r" / "latest"

    launcher = train(trial, **how)
    for number in range(1, 6):
        machine = trial.machine(number)
        rows = how["epochs"] * number // 8  # the last is early enough not to be outrun
        assert wait_for(lambda m=machine, r=rows: epochs_on(m) >= r or m.ended, 120)
        assert machine.ended is None, machine.console
        machine.interrupt(20)
    said = launcher.finish(240)
    trial.check("five interruptions", said, code=0, bound_seconds=5)
    assert len(trial.world.machines) == 6
    found = trial.laptop.folder / "runs" / trial.run_name
    for name in ("best.safetensors",):
        ours, theirs = load_file(found / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)
    assert history(found) == history(expected)


def epochs_on(machine: Machine) -> int:
    found = [len(p.read_text().splitlines()) for p in machine.home.glob("runs/*/metrics.jsonl")]
    return max(found, default=0)


def history(run) -> list[dict]:
    clock = ("seconds", "clips_per_second", "wait_fraction")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]
