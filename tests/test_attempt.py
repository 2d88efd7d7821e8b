"""An attempt goes on where the last one was, loses no finished epoch, and says how it ended."""

import json

import pytest
from short_train import final_state


def test_attempt_prepares_trains_and_leaves_all_on_s3(small_instance):
    small_instance.begin("--epochs", "3", "--epoch-seconds", "0.1")
    end = small_instance.run()
    assert (end.state, end.exit_code) == ("done", 0), small_instance.log
    assert "3 epochs" in end.reason
    assert json.loads(small_instance.read("metrics.json"))["state"] == final_state(3)
    latest = small_instance.latest()
    assert {"last.ckpt", "best.safetensors", "report.html", "config.json"} <= set(latest.files)
    heartbeat = small_instance.record.read_heartbeat()
    assert (heartbeat.stage, heartbeat.epoch, heartbeat.epochs) == ("ended", 3, 3)
