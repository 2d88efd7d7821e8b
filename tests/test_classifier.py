"""A checkpoint that was opened before is opened without torch, and says the same."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import label_recording
from models.kept_network import KeptGraphs
from tests.trainings import ROOT, write_clip
from timeline import classifier as rooms
from timeline.classifier import HEADS, INDEX, NETWORKS, TRUNK, Classifier
from timeline.labelled import Labelled, Method
from timeline.labelling import Labeller
from training.recipe import read_recipe

LABEL = """
import sys
import label_recording
try:
    code = label_recording.main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def checkpoint(trained_run, tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return Path(shutil.copy(trained_run / "best.safetensors", tmp_path / "run"))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A minute and a half: long enough that not all frames are looked at."""
    return write_clip(tmp_path_factory.mktemp("recording") / "a.mp4", "ads", 8, 90.0)


def opened(checkpoint: Path, cache_dir: Path) -> tuple[Classifier, bool]:
    """The classifier, and whether it was read from the checkpoint."""
    reads = []

    def read() -> object:
        reads.append(1)
        return label_recording._read_checkpoint(checkpoint)

    found = Classifier.open(checkpoint, read_recipe(checkpoint), read, cache_dir)
    assert isinstance(found.model, KeptGraphs)
    return found, bool(reads)


def test_second_time_it_is_the_same_and_not_read(checkpoint, tmp_path):
    first, was_read = opened(checkpoint, tmp_path)
    assert was_read
    again, was_read = opened(checkpoint, tmp_path)
    assert not was_read
    assert again == first


def test_labels_are_those_of_torch(checkpoint, tmp_path, recording):
    by_torch, *_ = label_recording.load_classifier(checkpoint)
    kept, _ = opened(checkpoint, tmp_path)
    expected, found = (
        Labeller(classifier, Method(), threads=2).label(recording)
        for classifier in (by_torch, kept)
    )
    assert found.break_probabilities == pytest.approx(expected.break_probabilities, abs=1e-4)
    assert spans_of(found) == spans_of(expected)
    assert found.timeline.model == expected.timeline.model


def spans_of(labelled: Labelled) -> list[tuple]:
    return [
        (s.label, s.start_seconds, s.end_seconds, round(s.confidence, 3))
        for s in labelled.timeline.segments
    ]


@pytest.mark.parametrize("name", [INDEX, TRUNK, HEADS])
@pytest.mark.parametrize("is_lost", [True, False])
def test_what_is_damaged_is_made_anew(checkpoint, tmp_path, name, is_lost):
    first, _ = opened(checkpoint, tmp_path)
    (kept,) = (tmp_path / NETWORKS).glob(f"*/{name}")
    whole = kept.read_bytes()
    kept.unlink() if is_lost else kept.write_bytes(whole[:-20])
    assert opened(checkpoint, tmp_path) == (first, True)
    assert kept.read_bytes() == whole
    assert not opened(checkpoint, tmp_path)[1]


def test_what_another_version_of_the_code_kept_is_not_used(checkpoint, tmp_path):
    opened(checkpoint, tmp_path)
    (index,) = (tmp_path / NETWORKS).glob(f"*/{INDEX}")
    index.write_text(index.read_text().replace('"format": 1', '"format": 0'))
    assert opened(checkpoint, tmp_path)[1]
    assert not opened(checkpoint, tmp_path)[1]


def test_another_checkpoint_is_read(checkpoint, tmp_path):
    opened(checkpoint, tmp_path)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-4] + bytes(4))  # one number is another
    assert opened(checkpoint, tmp_path)[1]


def test_the_newest_few_are_kept(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "MOST_KEPT", 2)
    content = checkpoint.read_bytes()
    for number in range(3):
        checkpoint.write_bytes(content[:-4] + bytes([number, 0, 0, 0]))
        assert opened(checkpoint, tmp_path)[1]
    assert len(list((tmp_path / NETWORKS).iterdir())) == 2
    assert not opened(checkpoint, tmp_path)[1]
    checkpoint.write_bytes(content[:-4] + bytes([0, 0, 0, 0]))
    assert opened(checkpoint, tmp_path)[1]


def test_cache_that_can_not_be_written_is_done_without(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert opened(checkpoint, tmp_path / "file")[1]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        assert opened(checkpoint, tmp_path / "cache")[1]
    assert not [path for path in tmp_path.glob("cache/**/*") if path.is_file()]
    assert opened(checkpoint, tmp_path / "cache")[1]


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("name", "value"), [("has_gpu", True), ("can_run", False)])
def test_torch_answers_where_it_is_sooner_or_alone(checkpoint, tmp_path, monkeypatch, name, value):
    opened(checkpoint, tmp_path)
    monkeypatch.setattr(rooms, name, lambda: value)
    assert opened(checkpoint, tmp_path)[1]


def test_script_labels_without_torch_from_the_second_time_on(checkpoint, tmp_path, recording):
    words = [recording, "--checkpoint", checkpoint, "--cache-dir", tmp_path / "cache", "--again"]
    command = [sys.executable, "-c", LABEL, *map(str, words), "--json"]
    said = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [done.stderr.split()[-1] for done in said] == ["True", "False"]
    assert said[0].stdout == said[1].stdout
    assert '"ads"' in said[0].stdout
