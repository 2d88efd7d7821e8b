"""Processes: what a worker has imported, and what stays of the main script."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest

from tests.steady import Stopwatch
from utils import processes
from utils.processes import PoolClosed, WorkerLost, WorkerPool

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import os
import colorsys  # stands for what a worker must not pay for
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from utils.processes import LightContext
import tests.test_processes as helpers

if __name__ == "__main__":
    with ProcessPoolExecutor(2, CONTEXT) as pool:
        print(pool.submit(helpers.imported, "colorsys").result())
    print(os.path.basename(__file__), __spec__)
"""


def imported(name: str) -> bool:
    """Whether this process has a module, called in a worker."""
    return name in sys.modules


@pytest.mark.parametrize(
    ("context", "expected"), [("LightContext()", "False"), ("get_context('spawn')", "True")]
)
def test_light_workers_do_not_import_the_main_script(tmp_path, context, expected):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("CONTEXT", context))
    done = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected, "script.py", "None"]


def add(a: int, b: int, report) -> int:
    return a + b


def count_slowly(count: int, seconds: float, report) -> int:
    for number in range(count):
        time.sleep(seconds)
        report(number)
    return os.getpid()


def spin(report) -> None:
    while True:
        pass


def sleep(report) -> None:
    time.sleep(1000)


def crash(report) -> None:
    os.abort()


def leave(report) -> None:
    os._exit(7)


def kill_once(mark: Path, report) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def kill_always(report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(report) -> None:
    raise KeyError("what was asked")


def threads_of_numpy(report) -> str:
    return os.environ["OPENBLAS_NUM_THREADS"]


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(processes, "STALL_FACTOR", 20)
    with WorkerPool(1, stall_seconds=4) as pool:  # a process takes a second or two of it to start
        yield pool


def test_pool_starts_no_process_before_there_is_work():
    with WorkerPool(2) as pool:
        assert active_children() == []
        assert pool.submit(add, 1, 2).result() == 3
        assert len(active_children()) == 1
    assert active_children() == []


def test_tasks_are_done_in_turn_and_report_as_they_go(pool):
    seen = []
    results = [pool.submit(add, k, 1) for k in range(20)]
    slow = pool.submit(count_slowly, 10, 0.5, progress=seen.append)  # longer than a stall in all
    assert [future.result() for future in results] == list(range(1, 21))
    assert slow.result() != os.getpid()
    assert seen == list(range(10))
    assert pool.submit(threads_of_numpy).result() == "1"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (crash, r"the decoder crashed on it \(SIGABRT\)"),
        (leave, r"the decoder crashed on it \(exit code 7\)"),
        (kill_always, "the decoder was killed, twice"),
        (spin, "decoding made no progress for 4 s"),
        (sleep, "decoding made no progress for 4 s"),
    ],
)
def test_task_that_kills_or_blocks_its_process_fails_alone(pool, monkeypatch, task, message):
    with monkeypatch.context() as patch:
        if task is sleep:
            patch.setattr(processes, "STALL_FACTOR", 1)
        lost = pool.submit(task)
        with pytest.raises(WorkerLost, match=message):
            lost.result()
    good = pool.submit(add, 1, 2)
    assert good.result() == 3


def test_task_whose_process_was_killed_is_tried_once_more(pool, tmp_path):
    # A machine without memory kills whom it likes.
    assert pool.submit(kill_once, tmp_path / "mark").result() == "done"


def test_error_of_a_task_comes_with_where_it_was_raised(pool):
    with pytest.raises(KeyError, match="what was asked") as error:
        pool.submit(fail).result()
    assert "in fail" in error.value.__notes__[0]


def test_stop_of_all_processes_is_no_stall(tmp_path):
    """Ctrl-Z, and `fg` after a while."""
    script = tmp_path / "script.py"
    script.write_text(
        "from utils import processes\n"
        "import tests.test_processes as helpers\n"
        "if __name__ == '__main__':\n"
        "    processes.STALL_FACTOR = 1\n"
        "    with processes.WorkerPool(1, stall_seconds=3) as pool:\n"
        "        pool.submit(helpers.add, 1, 2).result()\n"
        "        task = pool.submit(helpers.count_slowly, 2, 1)\n"
        "        print('begun', flush=True)\n"
        "        task.result()\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    with subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout.readline() == b"begun\n"
        os.killpg(parent.pid, signal.SIGSTOP)
        time.sleep(4)
        os.killpg(parent.pid, signal.SIGCONT)
    assert parent.returncode == 0


def test_closing_ends_what_is_being_done():
    with Stopwatch() as watch, WorkerPool(1) as pool:
        futures = [pool.submit(sleep), pool.submit(sleep)]
        while not active_children():
            time.sleep(0.01)
    assert watch.seconds < 20
    for future in futures:  # the tasks would go on for a quarter of an hour
        with pytest.raises(PoolClosed):
            future.result()
    assert wait(futures, timeout=1).not_done == set()


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from utils.processes import WorkerPool\n"
        "import tests.test_processes as helpers\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(2)\n"
        "    for _ in range(2):\n"
        "        pool.submit(helpers.spin)\n"
    )
    parent = subprocess.Popen([sys.executable, script], env={"PYTHONPATH": str(ROOT), "PATH": ""})
    family = psutil.Process(parent.pid)
    while len(workers := family.children()) < 2:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
