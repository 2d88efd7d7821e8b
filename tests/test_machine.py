"""The use of a machine is read right, and what does not answer is not waited for."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cloud import machine
from cloud.machine import Processor, disk_words, family_seconds, gpu_percent, memory_kills
from tests.steady import Stopwatch, wait_until

SPIN = """
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()  # as those of torchrun
while time.process_time() < 0.2:
    pass
"""
PARENT = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {SPIN!r}])
print("done", flush=True)
time.sleep(60)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Writes a command of that name, found before any other."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(text: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    return write


def test_gpu_percent_is_that_of_the_busiest(nvidia_smi):
    nvidia_smi("echo 3; echo 97; echo 0")
    assert gpu_percent() == 97


@pytest.mark.parametrize("text", ["exit 9", "echo 'No devices were found'", "true", "echo '[N/A]'"])
def test_gpu_that_does_not_answer_is_none(nvidia_smi, text):
    nvidia_smi(text)
    assert gpu_percent() is None


def test_driver_that_hangs_is_not_waited_for(nvidia_smi, monkeypatch):
    monkeypatch.setattr(machine, "ANSWER_SECONDS", 0.2)
    nvidia_smi("exec sleep 1000")
    with Stopwatch() as watch:
        assert gpu_percent() is None
    assert watch.seconds < 5


def test_machine_without_gpu_has_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_percent() is None


def test_processor_is_busy_while_somebody_spins():
    processor = Processor()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    assert 0 < processor.percent() <= 100


def test_time_of_all_descendants_counts():
    command = [sys.executable, "-c", SPIN + "time.sleep(60)"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_until(lambda: family_seconds(process.pid) >= 0.38)  # of both
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_time_of_children_that_are_gone_still_counts():
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"done\n"
        assert family_seconds(process.pid) >= 0.2
        os.killpg(process.pid, signal.SIGKILL)


def test_full_disk_is_said_with_its_size(tmp_path, monkeypatch):
    assert disk_words(tmp_path) is None
    monkeypatch.setattr(machine, "FULL_BYTES", 1 << 60)
    assert disk_words(tmp_path).endswith(f"are free in {tmp_path}")


def test_kills_for_want_of_memory_are_a_count():
    assert memory_kills() >= 0
