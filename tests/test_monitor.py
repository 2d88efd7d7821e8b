"""Tests of the monitor: what it records, and that nothing it meets disturbs a training."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from tests.steady import wait_until
from training.monitor import Monitor, read_monitor
from training.run_progress import read_json_lines

KEYS = {
    "seconds",
    "cpu_percent",
    "process_cpu_percent",
    "memory_bytes",
    "memory_percent",
    "read_bytes_per_second",
    "write_bytes_per_second",
    "gpus",
}
QUICK_SECONDS = 0.2


def record(path: Path, count: int = 2) -> list[dict]:
    """So many lines more, at least."""
    count += len(read_monitor(path))
    with Monitor(path, interval_seconds=QUICK_SECONDS) as monitor:
        wait_until(lambda: len(read_monitor(path)) >= count)
    assert monitor.note is None
    return read_monitor(path)


def test_lines_come_at_the_interval_and_hold_every_reading(tmp_path):
    lines = record(tmp_path / "monitor.jsonl", 4)
    assert all(set(line) == KEYS for line in lines)
    moments = [0.0, *(line["seconds"] for line in lines[:-1])]  # the end cuts the last one short
    assert all(b - a >= QUICK_SECONDS - 0.01 for a, b in zip(moments, moments[1:], strict=False))
    assert all(0 <= line["cpu_percent"] <= 100 for line in lines)
    assert all(line["memory_bytes"] > 1e6 for line in lines)


def test_the_interval_that_an_end_cuts_short_is_written_too(tmp_path):
    path = tmp_path / "monitor.jsonl"
    with Monitor(path, interval_seconds=60):
        time.sleep(0.4)
    (line,) = read_monitor(path)
    assert 0.3 < line["seconds"] < 5


def test_lines_are_in_the_file_while_the_training_goes_on(tmp_path):
    path = tmp_path / "monitor.jsonl"
    with Monitor(path, interval_seconds=QUICK_SECONDS):
        wait_until(lambda: read_monitor(path))


def test_children_count_as_part_of_the_training(tmp_path):
    path = tmp_path / "monitor.jsonl"
    alone = max(line["memory_bytes"] for line in record(path))
    code = "import time; block = bytearray(b'1' * 80_000_000); print(flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        together = record(path)[-1]["memory_bytes"]
        child.kill()
    assert together > alone + 80_000_000


def test_a_resumed_file_goes_on_after_its_half_written_line(tmp_path):
    path = tmp_path / "monitor.jsonl"
    path.write_bytes(b'{"seconds": 100.0}\n{"seconds": 10')
    began = time.monotonic()
    seconds = [line["seconds"] for line in record(path)]
    assert seconds[0] == 100.0
    assert len(seconds) >= 2
    assert path.read_bytes().splitlines()[1] == b'{"seconds": 10'  # only the half line is lost
    assert all(later > earlier for earlier, later in zip(seconds, seconds[1:], strict=False))
    assert seconds[-1] <= 100.1 + time.monotonic() - began


def test_a_reading_that_fails_is_null_and_the_rest_goes_on(tmp_path, monkeypatch):
    def fail(*_):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "io_counters", fail)
    monkeypatch.setattr(psutil, "virtual_memory", fail)
    line = record(tmp_path / "monitor.jsonl")[-1]
    assert line["read_bytes_per_second"] is None
    assert line["memory_percent"] is None
    assert line["memory_bytes"] > 1e6


def test_gpus_are_read_and_what_one_does_not_offer_is_null(tmp_path, monkeypatch):
    def no_power(_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=40 + handle),
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3_000),
        "nvmlDeviceGetPowerUsage": no_power,
        "nvmlDeviceGetTemperature": lambda *_: 61,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    first, second = record(tmp_path / "monitor.jsonl")[-1]["gpus"]
    assert first == {
        "utilization_percent": 40,
        "memory_bytes": 3_000,
        "power_watts": None,
        "temperature_celsius": 61,
    }
    assert second["utilization_percent"] == 41


def test_no_driver_means_no_gpu(tmp_path, monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert record(tmp_path / "monitor.jsonl")[-1]["gpus"] == []


def test_a_file_that_cannot_be_written_ends_in_a_note(tmp_path):
    with Monitor(tmp_path / "missing" / "monitor.jsonl") as monitor:
        time.sleep(0.1)
    assert "machine use is not recorded" in monitor.note


def test_an_error_of_the_training_passes_through_and_the_lines_stay(tmp_path):
    path = tmp_path / "monitor.jsonl"

    def train():
        with Monitor(path, interval_seconds=QUICK_SECONDS):
            time.sleep(0.3)
            raise KeyError("training")

    with pytest.raises(KeyError, match="training"):
        train()
    assert read_monitor(path)


def test_reading_leaves_out_what_is_no_whole_line(tmp_path):
    path = tmp_path / "monitor.jsonl"
    whole = {"seconds": 1.0, "cpu_percent": 5}
    path.write_bytes(json.dumps(whole).encode() + b'\n\x00\x00\xff\n[1]\n{"other": 1}\n{"sec')
    assert read_monitor(path) == [whole]
    assert read_json_lines(path) == [whole, {"other": 1}]
    assert read_monitor(tmp_path / "none.jsonl") == []
