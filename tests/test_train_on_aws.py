"""Train on AWS: the script as it is called, its messages, exit codes and how fast it is."""

import subprocess
import sys

import pytest

from tests.laptops import Laptop
from tests.launching import ROOT
from tests.steady import children_seconds

VIDEOS = {"data/ads/a.mp4": b"a" * 1000, "data/games/b.mp4": b"b" * 1000}


@pytest.fixture
def laptop(aws, tmp_path):
    return Laptop(aws, tmp_path / "laptop")


def last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1]


def test_help_teaches_each_verb_and_exit_code_without_loading_boto3():
    before = children_seconds()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train_on_aws.py", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for verb in ["run", "check", "status", "logs", "fetch", "stop", "resume", "reap", "upload"]:
        assert f"\n    {verb}  " in done.stdout
    for code in ("0 done", "1 failed", "3 ended early", "4 interrupted", "130 Ctrl-C"):
        assert code in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"boto3", "botocore", "numpy", "tqdm", "torch"} & loaded
    assert children_seconds() - before < 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run"], 2, "BUCKET"),
        (["stop", "--", "--epochs", "3"], 2, "RUN"),
        (["reap", "--", "--epochs", "3"], 2, "takes overrides"),
        (["run", "b", "--spot-only", "--on-demand"], 2, "not allowed with"),
        (["run", "b", "--max-cost", "-1"], 2, "not above 0"),
        (["status", "latest"], 1, "not the name of a run on AWS"),
        (["stop", "2026-11-22_06-10-00-train-x7k2"], 1, "pass --bucket"),
        (["run", "b", "--script", "no.py"], 1, "no script no.py"),
        (["run", "b", "--", "--epoch", "3"], 1, "did you mean --epochs"),
        (["run", "b", "--", "--epochs", "many"], 1, "epochs"),
        (["run", "b", "--", "--data-dir", "x"], 1, "--data-dir is set on the instance"),
    ],
)
def test_mistake_gets_its_cure_before_aws_is_asked(aws, laptop, words, code, message):
    found, said = laptop.run(*words)
    assert found == code
    assert message in last_line(said)
    assert aws.calls == []


def test_without_a_terminal_and_without_yes_nothing_is_begun(aws, laptop):
    code, said = laptop.run("run", aws.new_bucket(**VIDEOS))
    assert code == 1
    assert last_line(said).startswith("error: nobody is here to be asked: pass --yes")
    assert not {"RunInstances", "PutObject", "CreateRole"} & {call.name for call in aws.calls}


def test_dry_run_is_quick_and_begins_nothing(aws, laptop):
    bucket = aws.new_bucket(**VIDEOS)
    laptop.run("run", bucket, "--dry-run")  # the server's own start-up
    before = children_seconds()
    code, said = laptop.run("run", bucket, "--dry-run")
    assert code == 0
    assert children_seconds() - before < 10  # three on an idle machine
    assert last_line(said) == "nothing was begun"
    assert "ec2 RunInstances" in said
    assert not {"RunInstances", "PutObject", "CreateRole"} & {call.name for call in aws.calls}


def test_detached_run_says_how_to_go_on_and_later_verbs_know_it(aws, laptop):
    (laptop.folder / "cloud" / "bootstrap.sh").write_text("sleep 60\n")
    bucket = aws.new_bucket(**VIDEOS)
    code, said = laptop.run("run", bucket, "--yes", "--detach", "--spot-only")
    assert code == 0, said
    run = next(line.split()[1] for line in said.splitlines() if line.startswith("run "))
    for verb in ("status", "logs", "fetch", "stop", "resume"):
        assert f"./run_training.sh {verb} {run}" in said
    code, said = laptop.run("status")
    assert code == 0
    assert run in said
    code, said = laptop.run("status", run)
    assert "shows it as running" in said
    code, said = laptop.run("reap")
    assert code == 1  # something is billed, as it should be
    assert run in said
    aws.machines[0].vanish()  # as if AWS took it back in this moment
    code, said = laptop.run("stop", run)
    assert code == 0, said
    code, said = laptop.run("reap")
    assert code == 0
    assert last_line(said).startswith("nothing of ours is billed")


def test_refused_permission_is_one_line_and_leaves_nothing(aws, laptop):
    aws.fail("RunInstances", "denied", count=99)
    code, said = laptop.run("run", aws.new_bucket(**VIDEOS), "--yes")
    assert code == 1
    assert last_line(said).startswith("error: ec2:RunInstances was refused")
    assert "Traceback" not in said
    assert aws.left() == aws.schedules() == []


def test_uploaded_folder_is_what_the_plan_counts(aws, laptop):
    bucket = aws.new_bucket()
    for name in VIDEOS:
        path = laptop.folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(VIDEOS[name])
    code, said = laptop.run("upload", bucket)
    assert code == 0
    assert said.startswith("sent 2 files")
    assert set(aws.objects(bucket)) == set(VIDEOS)
