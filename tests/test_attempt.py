"""An attempt goes on where the last one was, loses no finished epoch, and says how it ended."""

import errno
import json
import os
import random
import signal
import time

import pytest

from cloud import run_folder
from cloud.run_record import DONE, FAILED, INTERRUPTED, STOPPED, Latest, RunRecord, utc_now
from cloud.workplace import Wish
from tests.imds import MetadataService
from tests.short_train import final_state
from tests.steady import Stopwatch

LONG = ("--epochs", "200", "--epoch-seconds", "0.2")


def state_of(instance) -> str:
    return json.loads(instance.read("metrics.json"))["state"]


# --- how it goes on


def test_attempt_prepares_trains_and_leaves_all_on_s3(small_instance):
    small_instance.begin("--epochs", "3", "--epoch-seconds", "0.1")
    end = small_instance.run()
    assert (end.state, end.exit_code) == (DONE, 0), small_instance.log
    assert end.reason == "trained: 3 epochs, AUC 0.975"
    assert state_of(small_instance) == final_state(3)
    there = {"last.ckpt", "best.safetensors", "report.html", "config.json", "run.log"}
    assert there <= set(small_instance.latest().files)
    heartbeat = small_instance.record.read_heartbeat()
    assert (heartbeat.stage, heartbeat.epoch, heartbeat.epochs) == ("ended", 3, 3)
    assert heartbeat.dollars_so_far > 0
    log = small_instance.s3_text("attempts/1.log")
    assert "epoch 3/3" in log
    assert "end         done" in log


def test_preparing_gets_the_flags_that_it_knows(small_instance):
    small_instance.begin("--epochs", "1", "--epoch-seconds", "0", "--fps=2")
    # The stand-in for a training knows no --fps, and refuses it.
    assert small_instance.run().state == FAILED
    words = json.loads((small_instance.home / "prepared.json").read_text())
    bucket = small_instance.bucket
    assert words == [
        *(f"s3://{bucket}/data", "--script", "short_train.py", "--store", f"s3://{bucket}/store"),
        *("--price", "0.5", "--cache-dir", "cache", "--fps", "2"),
    ]
    assert "--fps" in small_instance.end.reason


def test_preparing_gets_the_flags_that_a_pipeline_hands_to_its_training(small_instance):
    handed_on = "--train-flags=--model lrcn --frame-size 32,32 --fps 3"
    small_instance.begin("--train-script", "train.py", handed_on, "--fps", "2")
    words = run_folder.prepare_command(small_instance.place)
    assert words[words.index("--script") + 1] == "train.py"
    assert words[-4:] == ["--fps", "3", "--frame-size", "32,32"]


def test_names_of_files_and_flags_are_those_of_the_real_scripts():
    from prepare_data import CONSTANTS
    from training.run_progress import BEST

    assert {*run_folder.OF_PREPARATION, "cache_dir"} == set(CONSTANTS)
    assert run_folder.BEST == BEST


@pytest.mark.slow
def test_attempts_ended_at_random_times_end_where_an_undisturbed_one_does(small_instance):
    chance, instance, epochs = random.Random(6), small_instance, 8
    words = ("--epochs", str(epochs), "--epoch-seconds", "0.3")
    instance.begin(*words)
    instances, done_before = [instance], 0
    while True:
        seconds = chance.uniform(0.1, 0.9)

        def disturb(instance=instance, seconds=seconds):
            instance.wait_for(lambda: instance.place.process("work"))
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGTERM)

        end = instance.run(during=disturb if len(instances) <= 4 else None)
        assert instance.epochs_on_s3() >= done_before
        done_before = instance.epochs_on_s3()
        if end.state == DONE:
            break
        assert end.state == INTERRUPTED, instance.log
        instance = instance.next(*words)
        instances.append(instance)
    assert len(instances) >= 4
    assert state_of(instance) == final_state(epochs)
    history = instance.read("metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == list(range(1, epochs + 1))
    for one in instances[1:]:
        one.close()


# --- how it ends early


def test_sigterm_saves_sends_and_says_so(small_instance):
    small_instance.begin(*LONG)

    def terminate():
        small_instance.wait_for_epoch(2)
        os.kill(os.getpid(), signal.SIGTERM)

    end = small_instance.run(during=terminate)
    assert (end.state, end.exit_code) == (INTERRUPTED, 130)
    epoch = json.loads(small_instance.read("last.ckpt"))["epoch"]
    assert epoch >= 2
    assert end.reason.endswith(f"saved after epoch {epoch} of 200")


def test_training_that_is_asked_to_end_by_others_can_go_on_later(small_instance):
    small_instance.begin(*LONG)

    def terminate():
        small_instance.wait_for_epoch(1)
        small_instance.kill("work", signal.SIGTERM)

    end = small_instance.run(during=terminate)
    assert (end.state, end.exit_code) == (INTERRUPTED, 130)
    assert end.reason.startswith("training was asked to end from outside; saved after epoch")


def test_notice_of_ec2_ends_the_attempt_in_time(small_instance):
    service = MetadataService()
    small_instance.variables |= service.environment
    small_instance.begin(*LONG, market="spot")

    def give_notice():
        small_instance.wait_for_epoch(1)
        service.recommend_rebalance()
        small_instance.wait_for(lambda: "may take the instance back" in small_instance.log)
        assert small_instance.place.wish is None  # a recommendation is no notice
        service.give_notice(30)

    end = small_instance.run(during=give_notice)
    service.close()
    assert end.state == INTERRUPTED
    assert "EC2 takes the spot instance back" in end.reason
    assert small_instance.epochs_on_s3() >= 1


def test_machine_without_metadata_says_so_once(small_instance):
    small_instance.begin("--epochs", "2", market="spot")
    assert small_instance.run().state == DONE
    assert small_instance.log.count("no notices of an interruption can be had") == 1


def test_stop_of_the_laptop_is_heeded_with_its_reason(small_instance):
    small_instance.begin(*LONG)

    def stop():
        small_instance.wait_for_epoch(1)
        small_instance.record.ask_to_stop(1, "stopped by tester")

    end = small_instance.run(during=stop)
    assert end.state == STOPPED
    assert end.reason.startswith("stopped by tester; saved after epoch")


def test_wish_of_the_guard_is_the_reason_that_counts(small_instance):
    small_instance.begin(*LONG)

    def end_it():
        small_instance.wait_for_epoch(1)
        small_instance.place.ask_to_end(Wish("limit", "$1.00 of the $1.00 are spent"))
        os.kill(os.getpid(), signal.SIGTERM)

    end = small_instance.run(during=end_it)
    assert end.state == "limit"
    assert end.reason.startswith("$1.00 of the $1.00 are spent")


def test_attempt_given_up_from_outside_overwrites_nothing(small_instance):
    small_instance.begin(*LONG)
    latest = []

    def give_up():
        small_instance.wait_for_epoch(1)
        end = small_instance.place.new_end(Wish(FAILED, "it was silent"), 1)
        assert small_instance.record.write_end(1, end)
        time.sleep(0.5)  # for what was under way
        latest.append(small_instance.latest())

    assert small_instance.run(during=give_up).reason == "it was silent"
    assert small_instance.latest() == latest[0]
    assert small_instance.place.end.state == STOPPED


def test_end_while_preparing_is_one_without_a_run(small_instance):
    small_instance.variables["TEST_PREPARE"] = "time.sleep(60)"
    small_instance.begin(*LONG)

    def stop():
        small_instance.wait_for(lambda: "decoding" in small_instance.log)
        small_instance.record.ask_to_stop(1, "")

    end = small_instance.run(during=stop)
    assert (end.state, end.exit_code) == (STOPPED, 130)  # Ctrl-C, which preparing understands
    assert end.reason.endswith("nothing was learned yet")
    assert small_instance.record.read_latest() is None


# --- what goes wrong


def test_training_that_is_killed_is_named_with_its_signal(small_instance):
    small_instance.begin(*LONG)

    def kill():
        small_instance.wait_for_epoch(1)
        small_instance.kill("work")

    end = small_instance.run(during=kill)
    assert (end.state, end.exit_code) == (FAILED, 137)
    assert "short_train.py was killed by signal 9 (SIGKILL)" in end.reason
    assert small_instance.epochs_on_s3() >= 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--fail-at", "ended with code 1: a mistake"), ("--disk-full-at", "the disk is full")],
)
def test_training_that_fails_is_named_with_its_last_words(small_instance, flag, words):
    small_instance.begin("--epochs", "5", flag, "2")
    end = small_instance.run()
    assert (end.state, end.exit_code) == (FAILED, 1)
    assert words in end.reason
    assert "\n" not in end.reason
    assert small_instance.epochs_on_s3() >= 1  # what was written before


def test_training_that_does_not_save_in_time_is_killed(small_instance):
    small_instance.begin("--hang-at", "1", *LONG, save_seconds=0.5)

    def stop():
        small_instance.wait_for_epoch(1)
        small_instance.record.ask_to_stop(1, "enough")

    end = small_instance.run(during=stop)
    assert (end.state, end.exit_code) == (STOPPED, 137)
    assert small_instance.epochs_on_s3() == 1


def test_preparing_that_fails_says_why(small_instance):
    small_instance.variables["TEST_PREPARE"] = "sys.exit('error: data has no video: put some')"
    small_instance.begin(*LONG)
    end = small_instance.run()
    assert end.state == FAILED
    assert end.reason == "preparing the videos ended with code 1: data has no video: put some"


def test_work_is_tried_again_where_s3_was_in_the_way(small_instance):
    small_instance.variables["TEST_PREPARE"] = (
        "tried = pathlib.Path('tried')\n"
        "if not tried.exists():\n"
        "    tried.touch()\n"
        "    sys.exit('error: s3://bucket/data: S3 is too busy (SlowDown), and so on')"
    )
    small_instance.begin("--epochs", "1")
    assert small_instance.run().state == DONE
    assert "once more" in small_instance.log


def test_end_is_on_s3_where_the_disk_has_no_room_for_it(small_instance, monkeypatch):
    def refuse(path, values):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    small_instance.begin("--epochs", "3", "--disk-full-at", "1")
    (small_instance.place.folder / "ballast").write_bytes(b"room")
    monkeypatch.setattr("cloud.workplace._create", refuse)
    end = small_instance.run()
    assert end.state == FAILED
    assert end.reason.startswith("the disk is full: short_train.py ended with")
    assert not (small_instance.place.folder / "ballast").exists()
    assert small_instance.place.end is None


def test_run_that_can_not_be_brought_back_is_not_begun_anew(small_instance):
    record = small_instance.record
    record.write_latest(Latest({"last.ckpt": {"sha256": "0" * 64, "size_bytes": 1}}, 0, utc_now()))
    small_instance.begin(*LONG)
    end = small_instance.run()
    assert end.state == FAILED
    assert "there is no such object" in end.reason
    assert record.read_latest().attempt == 0


# --- S3 that refuses


def test_heartbeat_on_its_way_at_the_end_does_not_come_after_the_last(small_instance, monkeypatch):
    write, late = RunRecord.write_heartbeat, []

    def write_slowly(record, heartbeat):
        if heartbeat.stage == "uploading":
            late.append(heartbeat)
            time.sleep(1.0)
        write(record, heartbeat)

    monkeypatch.setattr(RunRecord, "write_heartbeat", write_slowly)
    small_instance.begin("--epochs", "1", "--epoch-seconds", "0.1")
    assert small_instance.run().state == DONE
    assert late
    time.sleep(1.5)  # by then it would have come
    assert small_instance.record.read_heartbeat().stage == "ended"


def test_training_goes_on_while_s3_refuses(small_instance):
    small_instance.begin("--epochs", "20", "--epoch-seconds", "0.2")
    refused = []

    def epochs() -> int:
        """On the disk: on S3 they may be late on a busy machine, and the training over by then."""
        folder = small_instance.place.run_folder
        path = folder and folder / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path and path.exists() else 0

    def refuse():
        small_instance.wait_for(epochs)
        with small_instance.s3.faulty(lambda method, path: "busy"):
            before = epochs()
            small_instance.wait_for(lambda: epochs() >= before + 3)
            refused.append(True)

    assert small_instance.run(during=refuse).state == DONE, small_instance.log
    assert refused
    assert state_of(small_instance) == final_state(20)


def test_end_comes_in_time_where_s3_never_answers_again(small_instance, monkeypatch):
    monkeypatch.setattr("cloud.ending.RESULT_PATIENCE", 1)
    small_instance.begin("--epochs", "30", "--epoch-seconds", "0.2", final_upload_seconds=2)
    seconds = []

    def refuse():
        small_instance.wait_for_epoch(1)
        with small_instance.s3.faulty(lambda method, path: "busy"):
            with Stopwatch() as watch:
                small_instance.wait_for(lambda: small_instance.place.end)
            seconds.append(watch.seconds)

    small_instance.run(during=refuse)
    assert seconds[0] < 10
    assert small_instance.place.end.state == FAILED
    assert "could not be sent to S3" in small_instance.place.end.reason
    assert small_instance.epochs_on_s3() >= 1


# --- an attempt that is killed itself


@pytest.mark.slow
def test_what_a_killed_attempt_left_is_saved_and_sent_by_the_next_best(small_instance):
    small_instance.begin(*LONG)
    small_instance.start("attempt")
    small_instance.wait_for_epoch(1)
    small_instance.kill("attempt")
    trainer = small_instance.place.process("work")
    assert trainer is not None  # it lives on
    asked = small_instance.start("attempt", "end", "failed", "it was killed")
    asked.wait(90)
    assert small_instance.place.process("work") is None
    assert small_instance.end.state == FAILED
    assert small_instance.end.reason == "it was killed"
    saved = json.loads(small_instance.read("last.ckpt"))
    # In the middle of an epoch: it was asked to save, and what it saved was sent.
    here = json.loads((small_instance.place.run_folder / "last.ckpt").read_text())
    assert saved == here
    assert small_instance.record.read_heartbeat().stage == "ended"


@pytest.mark.slow
def test_end_from_outside_lets_a_living_attempt_do_it(small_instance):
    small_instance.begin(*LONG)
    process = small_instance.start("attempt")
    small_instance.wait_for_epoch(1)
    small_instance.start("attempt", "end", "failed", "the start script was killed").wait(90)
    assert process.wait(60) == 1
    assert small_instance.end.reason.startswith("the start script was killed; saved after epoch")
