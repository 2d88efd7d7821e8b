"""Launcher: run_training.sh and its check, run in a temporary clone with a stubbed pipenv."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.steady import Stopwatch, wait_until

ROOT = Path(__file__).resolve().parent.parent
TOOLS = (
    *("awk", "bash", "cat", "cp", "dirname", "env", "grep", "ln", "mkdir", "mv", "rm", "sed"),
    *("sleep", "tail", "touch"),
)
TRAINING = """
import json, os, sys
print("SCRIPT", json.dumps([os.path.basename(sys.argv[0]), os.getcwd(), *sys.argv[1:]]))
sys.exit(int(os.environ.get("TRAINING_EXIT", 0)))
"""
WAITING = """
import time
try:
    print("training", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("saved; go on with --resume", flush=True)
    raise SystemExit(130)
"""
PIPENV = """#!/usr/bin/env bash
set -eu
if [[ "$1" == --version ]]; then echo "pipenv, version 2099.1.0"; exit; fi
echo "$*" >>"$CALLS"
if [[ -n "${SYNC_SECONDS:-}" ]]; then mkdir -p .venv/half; sleep "$SYNC_SECONDS"; fi
if [[ -n "${SYNC_ERROR:-}" ]]; then echo "$SYNC_ERROR"; exit 1; fi
[[ "$PIPENV_VENV_IN_PROJECT" == 1 && "$PIPENV_IGNORE_VIRTUALENVS" == 1 && "$PIP_COMPILE" == 0 ]]
mkdir -p .venv/bin .venv/lib
echo "ANSWER = 42" >.venv/lib/package.py
echo "{{ no Python }}" >.venv/lib/template.py
ln -sf "$STUB_PYTHON" .venv/bin/python
"""
DISK = """#!/usr/bin/env bash
echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
echo "disk 100000000 0 ${FREE_KB:-90000000} 1% /"
"""


class Clone:
    """A clone with stub scripts and a PATH that holds nothing but what its tests put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "my clone"
        self.folder.mkdir()
        scripts = ("check_setup.py", "show_runs.py", "watch_run.py")
        for name in ("run_training.sh", *scripts, "Pipfile", "Pipfile.lock"):
            shutil.copy(ROOT / name, self.folder)
        check = (ROOT / "check_setup.py").read_text()
        enough = re.sub(r"^(SET_UP_GB|FREE_GB) = \d+", r"\1 = 0", check, flags=re.MULTILINE)
        assert enough != check  # what this machine's disk has left is no matter
        (self.folder / "check_setup.py").write_text(enough)
        for room in ("cloud", "utils", "training"):
            shutil.copytree(ROOT / room, self.folder / room)
        for name in ("cost_optimized_train.py", "train.py"):
            (self.folder / name).write_text(TRAINING)
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).symlink_to(shutil.which(name))
        self.calls = folder / "calls"
        self.add_tool("pipenv", PIPENV)
        self.add_tool("df", DISK)
        self.add_tool("python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        self.environment = {
            "PATH": str(self.tools),
            "HOME": str(folder),
            "CALLS": str(self.calls),
            "STUB_PYTHON": sys.executable,
        }

    def add_tool(self, name: str, text: str) -> None:
        path = self.tools / name
        path.write_text(text)
        path.chmod(0o755)

    def command(self, *arguments: str) -> list[str]:
        return [str(self.folder / "run_training.sh"), *arguments]

    def run(
        self, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """In a process group of its own, as a terminal would, so that Ctrl-C can be played."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def synced(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def is_ready(self) -> bool:
        return (self.folder / ".venv" / "set-up-done").exists()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def last_line(text: str) -> str:
    return text.rstrip().splitlines()[-1]


def script_line(*parts: str, cwd: Path) -> str:
    quoted = ", ".join(f'"{part}"' for part in (parts[0], str(cwd), *parts[1:]))
    return f"SCRIPT [{quoted}]"


def test_local_runs_the_cost_optimized_script(clone):
    done = clone.run("local")
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == script_line("cost_optimized_train.py", cwd=clone.folder)
    assert clone.is_ready()


def test_script_and_overrides_are_passed_as_they_are(clone):
    done = clone.run("local", "train.py", "--", "--epochs", "3", "--data-dir", "two words", "*", "")
    expected = ("train.py", "--epochs", "3", "--data-dir", "two words", "*", "")
    assert last_line(done.stdout) == script_line(*expected, cwd=clone.folder)


RANKS_TRAINING = """
import json, os, sys
join_ranks = None
keys = ("RANK", "WORLD_SIZE")
print("SCRIPT", json.dumps([os.environ.get(key) for key in keys] + sys.argv[1:]))
"""
GPUS = """#!/bin/sh
[ "$1" = --list-gpus ] || exit 1
for i in $GPUS; do echo "GPU $i: NVIDIA Test (UUID: GPU-$i)"; done
"""
TORCHRUN = """
import os, subprocess, sys
assert sys.argv[1:3] == ["--standalone", "--nproc-per-node"]
for rank in range(int(sys.argv[3])):
    ranks = {"RANK": str(rank), "WORLD_SIZE": sys.argv[3]}
    subprocess.run([sys.executable, *sys.argv[4:]], env=os.environ | ranks, check=True)
"""


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({"GPUS": "0 1 2"}, 3),
        ({"GPUS": "0 1 2", "CUDA_VISIBLE_DEVICES": "0,2"}, 2),
        ({"GPUS": "0 1 2", "CUDA_VISIBLE_DEVICES": "1"}, 0),
        ({"GPUS": "0 1 2", "CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"GPUS": "0"}, 0),
        ({"GPUS": ""}, 0),
    ],
)
def test_each_gpu_gets_a_process_where_there_are_several(clone, environment, ranks):
    clone.add_tool("nvidia-smi", GPUS)
    module = clone.folder / "torch" / "distributed" / "run.py"
    module.parent.mkdir(parents=True)
    module.write_text(TORCHRUN)
    (clone.folder / "train.py").write_text(RANKS_TRAINING)
    environment |= {"PYTHONPATH": str(clone.folder)}
    done = clone.run("local", "train.py", "--", "--epochs", "3", **environment)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("SCRIPT")]
    pairs = [f'"{rank}", "{ranks}"' for rank in range(ranks)] or ["null, null"]
    assert lines == [f'SCRIPT [{pair}, "--epochs", "3"]' for pair in pairs]
    helped = clone.run("local", "train.py", "--", "--help", **environment).stdout
    assert 'SCRIPT [null, null, "--help"]' in helped


def test_script_that_knows_no_ranks_is_started_once(clone):
    clone.add_tool("nvidia-smi", GPUS)
    done = clone.run("local", GPUS="0 1")
    assert last_line(done.stdout) == script_line("cost_optimized_train.py", cwd=clone.folder)


def test_prepare_hands_over_what_follows(clone):
    (clone.folder / "prepare_data.py").write_text(TRAINING)
    for dashes in ([], ["--"]):
        done = clone.run("prepare", *dashes, "archive", "--status")
        expected = ("prepare_data.py", "archive", "--status")
        assert last_line(done.stdout) == script_line(*expected, cwd=clone.folder)


def test_overrides_alone_go_to_the_default_script(clone):
    done = clone.run("local", "--", "--resume")
    assert last_line(done.stdout) == script_line(
        "cost_optimized_train.py", "--resume", cwd=clone.folder
    )


def test_it_works_from_another_folder(clone, tmp_path):
    done = clone.run("local", "./train.py", cwd=tmp_path)
    assert last_line(done.stdout) == script_line("train.py", cwd=clone.folder)


def test_exit_code_of_the_training_is_passed_on(clone):
    assert clone.run("local", TRAINING_EXIT="7").returncode == 7


def test_second_run_sets_nothing_up(clone):
    clone.run("local")
    with Stopwatch() as watch:
        done = clone.run("local")
    assert watch.seconds < 3
    assert clone.synced() == [f"sync --python {sys._base_executable} --categories packages"]
    assert done.stdout == script_line("cost_optimized_train.py", cwd=clone.folder) + "\n"


def test_training_gets_none_of_the_variables_of_the_set_up(clone):
    (clone.folder / "train.py").write_text("import os; print('ENV', sorted(os.environ))")
    names = last_line(clone.run("local", "train.py").stdout)
    assert "HOME" in names
    assert "TMPDIR" not in names
    assert "PIP" not in names


def test_training_waits_for_its_threads_passively_unless_told_otherwise(clone):
    (clone.folder / "train.py").write_text("import os; print(os.environ['OMP_WAIT_POLICY'])")
    assert last_line(clone.run("local", "train.py").stdout) == "PASSIVE"
    told = clone.run("local", "train.py", OMP_WAIT_POLICY="ACTIVE")
    assert last_line(told.stdout) == "ACTIVE"


def test_set_up_alone_runs_nothing_else(clone):
    done = clone.run("set-up")
    assert done.returncode == 0, done.stderr
    assert clone.is_ready()
    assert "SCRIPT" not in done.stdout


def test_set_up_can_be_that_of_the_tests(clone):
    assert clone.run("set-up", "dev").returncode == 0
    assert "dev-packages" in clone.synced()[0]


def test_changed_lock_is_synced(clone):
    clone.run("local")
    with (clone.folder / "Pipfile.lock").open("a") as file:
        file.write("\n")
    assert clone.run("local").returncode == 0
    assert len(clone.synced()) == 2


def test_tests_need_the_development_packages_and_training_takes_either(clone):
    done = clone.run("test", "--", "--version")  # fails: the stub environment has no shellcheck
    assert done.returncode == 1
    assert "shellcheck" in last_line(done.stderr)
    clone.run("local")
    sync = f"sync --python {sys._base_executable} --categories packages dev-packages cluster"
    assert clone.synced() == [sync]


def test_annoy_is_installed_for_the_tests_where_there_is_a_compiler(clone):
    (clone.tools / "c++").symlink_to("/bin/true")
    clone.run("test", "--", "--version")
    assert clone.synced()[0].endswith(" cluster annoy")


def test_environment_whose_python_is_gone_is_made_anew(clone):
    clone.run("local")
    python = clone.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    assert clone.run("local").returncode == 0
    assert len(clone.synced()) == 2


@pytest.mark.parametrize(
    ("message", "cure"),
    [
        ("Max retries exceeded", "connect to the internet"),
        ("OSError: No space left on device", "free 10 GB"),
        ("hashes do not match", "read the log"),
    ],
)
def test_failed_set_up_says_step_log_and_cure_and_is_redone(clone, message, cure):
    done = clone.run("local", SYNC_ERROR=message)
    assert done.returncode == 1
    assert message in done.stderr
    line = last_line(done.stderr)
    assert "installing the packages" in line
    assert str(clone.folder / ".pipenv" / "set-up.log") in line
    assert cure in line
    assert not clone.is_ready()
    assert "SCRIPT" in clone.run("local").stdout


def test_packages_are_compiled_but_for_what_can_not_be(clone):
    assert clone.run("local").returncode == 0
    compiled = (clone.folder / ".venv" / "lib" / "__pycache__").iterdir()
    assert [path.name.split(".")[0] for path in compiled] == ["package"]


def test_interrupted_set_up_says_so_and_begins_anew(clone):
    process = clone.start("local", SYNC_SECONDS="30")
    wait_until(lambda: clone.synced())
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "Stopped at: installing the packages" in last_line(output)
    assert not clone.is_ready()
    assert clone.run("local").returncode == 0
    assert not (clone.folder / ".venv" / "half").exists()


def test_two_set_ups_at_the_same_time_make_one_environment(clone):
    first = clone.start("local", SYNC_SECONDS="2")
    wait_until(lambda: clone.synced())
    second = clone.run("local")
    output, _ = first.communicate(timeout=90)
    assert "SCRIPT" in output
    assert "Another run" in second.stdout
    assert "SCRIPT" in second.stdout
    assert len(clone.synced()) == 1


def test_ctrl_c_reaches_the_training_and_its_word_is_the_last(clone):
    (clone.folder / "train.py").write_text(WAITING)
    process = clone.start("local", "train.py")
    seen = ""
    while not seen.endswith("training\n"):
        line = process.stdout.readline()
        assert line, seen
        seen += line
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130
    assert output == "saved; go on with --resume\n"


def test_without_python_one_line_says_what_to_install(clone):
    (clone.tools / "python3").unlink()
    done = clone.run("local")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "found no Python: install 3.11" in done.stderr


def test_python_that_is_too_old_is_named_and_a_newer_one_is_taken(clone):
    clone.add_tool("python3", "#!/bin/sh\necho 3.9.2\nexit 1\n")
    assert "found Python 3.9.2: install" in clone.run("local").stderr
    clone.add_tool("python3.12", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    assert clone.run("local").returncode == 0


def test_full_disk_is_noticed_before_anything_is_installed(clone):
    done = clone.run("local", FREE_KB="3000000")
    assert done.returncode == 1
    assert "3 GB are free" in last_line(done.stderr)
    assert clone.synced() == []


def test_old_pipenv_of_the_machine_is_not_used(clone):
    clone.add_tool("pipenv", "#!/bin/sh\necho pipenv, version 2024.4.1\n")
    # The one that replaces it comes from the network, so this Python refuses to make room for it.
    clone.add_tool(
        "python3", '#!/bin/sh\n[ "$2" != venv ] || exit 9\n[ "$3" != 13 ] || echo "$0"\n'
    )
    done = clone.run("local")
    assert done.returncode == 1
    assert "a place for pipenv" in last_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["traim"], "unknown verb 'traim'"),
        (["local", "no_such.py"], "cost_optimized_train.py train.py"),
        (["local", "train"], "no script 'train'"),
        (["local", "../train.py"], "no script '../train.py'"),
        (["local", "--epochs", "3"], "local cost_optimized_train.py -- --epochs 3"),
        (["local", "train.py", "--epochs", "3"], "local train.py -- --epochs 3"),
        (["test", "-k", "split"], "test -- -k split"),
    ],
)
def test_mistake_gets_one_line_and_exit_code_2(clone, arguments, message):
    done = clone.run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert clone.synced() == []


@pytest.mark.parametrize(
    ("arguments", "code"), [(["help"], 0), (["-h"], 0), (["--help"], 0), ([], 2)]
)
def test_help_teaches_every_verb(clone, arguments, code):
    done = clone.run(*arguments)
    assert done.returncode == code
    for verb in ("local", "prepare", "status", "monitor", "check", "test", "lock", "aws BUCKET"):
        assert f"./run_training.sh {verb}" in done.stdout
    for verb in ("upload BUCKET", "logs RUN", "fetch RUN", "stop RUN", "resume RUN", "reap"):
        assert f"./run_training.sh {verb}" in done.stdout


@pytest.mark.parametrize(
    ("words", "handed_over"),
    [
        (["aws", "bucket", "--dry-run"], ["run", "bucket", "--dry-run"]),
        (["aws", "b", "--", "--epochs", "3"], ["run", "b", "--", "--epochs", "3"]),
        (["upload", "b", "two words"], ["upload", "b", "two words"]),
        (["logs", "R", "-f"], ["logs", "R", "-f"]),
        (["fetch", "R"], ["fetch", "R"]),
        (["stop", "R"], ["stop", "R"]),
        (["resume", "R", "--yes"], ["resume", "R", "--yes"]),
        (["reap", "--all"], ["reap", "--all"]),
        (["status", "2026-11-22_x"], ["status", "2026-11-22_x"]),
    ],
)
def test_verbs_of_aws_are_handed_over_with_their_exit_code(clone, words, handed_over):
    (clone.folder / "train_on_aws.py").write_text(TRAINING)
    done = clone.run(*words, TRAINING_EXIT="3")
    assert done.returncode == 3
    expected = script_line("train_on_aws.py", *handed_over, cwd=clone.folder)
    assert last_line(done.stdout) == expected


def test_status_asks_aws_only_where_runs_were_begun_here(clone):
    (clone.folder / "train_on_aws.py").write_text(TRAINING)
    assert "SCRIPT" not in clone.run("status").stdout
    (clone.folder / "runs" / "aws").mkdir(parents=True)
    (clone.folder / "runs" / "aws" / "a.json").write_text("{}")
    done = clone.run("status")
    assert "no run in runs/" in done.stdout
    assert last_line(done.stdout) == script_line("train_on_aws.py", "status", cwd=clone.folder)
    assert "SCRIPT" not in clone.run("status", "--json").stdout


def test_check_of_a_bucket_follows_that_of_this_machine_and_decides(clone):
    (clone.folder / "train_on_aws.py").write_text(TRAINING)
    add_videos(clone, "ads/a.mp4", "ads/b.mp4")  # too few to train here
    done = clone.run("check", "bucket")
    assert done.returncode == 0
    assert "MISSING" in done.stdout
    expected = script_line("train_on_aws.py", "check", "bucket", cwd=clone.folder)
    assert last_line(done.stdout) == expected


def add_videos(clone: Clone, *names: str) -> None:
    for name in names:
        path = clone.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """State of each requirement, by its first words."""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "note ", "MISS"))]
    return {line[9:27].strip(): line.split()[0] for line in lines}


def test_check_passes_before_set_up_and_installs_nothing(clone):
    done = clone.run("check")
    assert done.returncode == 0, done.stdout
    assert "./run_training.sh local" in last_line(done.stdout)
    assert rows(done)["packages"] == "note"
    assert rows(done)["videos"] == "note"
    assert clone.synced() == []


def test_runs_are_looked_at_before_set_up_and_from_anywhere(clone, tmp_path):
    done = clone.run("status", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no run in runs/ yet: begin one with ./run_training.sh local\n"
    done = clone.run("monitor", "runs/none")
    assert done.returncode == 1
    assert done.stderr.startswith("error: runs/none is not the folder of a run")
    assert clone.synced() == []


def test_check_counts_the_videos_of_each_class(clone):
    add_videos(clone, "ads/a.mp4", "ads/tv/b.mp4", "ads/tv/c.mp4", "games/d.mkv", "games/e.mkv")
    done = clone.run("check")
    assert done.returncode == 0, done.stdout
    assert "3 in 2 groups" in done.stdout
    assert rows(done)["videos: ads"] == rows(done)["videos: games"] == "ok"


@pytest.mark.parametrize(
    ("names", "cure"),
    [
        (["ads/a.mp4", "ads/b.mp4"], "at least two folders"),
        (["ads/a.mp4", "ads/b.mp4", "games/c.mp4"], "add a second group"),
        (["ads/a.mp4", "games/b.mp4", "validation/ads/c.mp4"], "put some into validation/games"),
    ],
)
def test_check_fails_where_the_videos_do_not_suffice(clone, names, cure):
    add_videos(clone, *names)
    done = clone.run("check")
    assert done.returncode == 1
    assert cure in done.stdout
    assert "MISSING" in done.stdout


def test_check_fails_for_a_data_folder_that_is_not_there(clone):
    done = clone.run("check", "--data-dir", "nowhere")
    assert done.returncode == 1
    assert rows(done)["videos"] == "MISSING"


@pytest.mark.parametrize(("driver", "state"), [("570.86.15", "note"), ("580.65.06", "ok")])
def test_check_calls_out_a_driver_too_old_for_cuda_13(clone, driver, state):
    clone.add_tool("nvidia-smi", f"#!/bin/sh\necho 'NVIDIA L4, {driver}, 23034 MiB'\n")
    done = clone.run("check")
    assert rows(done)["GPU"] == state
    assert ("CUDA 13 needs driver 580" in done.stdout) == (state == "note")
