"""Tests of the report: what a reader finds in it, for whole, odd and unfinished runs."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.evaluation import ClipScores, evaluate_scores, fit_temperature, write_predictions
from training.intervals import metric_intervals
from training.learning_curve import summarize
from training.report import write_report
from training.thresholds import Aim, choose_thresholds

VOID_TAGS = {"meta", "img", "br"}
SIDE = {"recordings": 12, "groups": 6, "clips": 60, "hours": 0.17}


class Page(HTMLParser):
    """A parsed report: its tags in order, its text; fails on tags that do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        assert self._open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    def ids(self) -> set[str]:
        return {found["id"] for tag, found in self.tags if tag == "section"}


def make_scores(classes=("ads", "games"), groups=8, per_group=8, skill=3.0, seed=0) -> ClipScores:
    generator = np.random.default_rng(seed)
    names = [f"{classes[index % len(classes)]}/source_{index}" for index in range(groups)]
    labels = np.repeat(np.arange(groups) % len(classes), per_group)
    logits = generator.normal(0, 1, (len(labels), len(classes)))
    logits[np.arange(len(labels)), labels] += skill
    return ClipScores(
        logits=logits.astype(np.float32),
        labels=labels,
        recordings=[f"{name}.mp4" for name in np.repeat(names, per_group)],
        groups=np.repeat(names, per_group).tolist(),
        start_seconds=np.tile(np.arange(per_group) * 10.0, groups) + 3600,
        end_seconds=np.tile(np.arange(per_group) * 10.0, groups) + 3610,
    )


def make_run(run: Path, scores: ClipScores, classes=("ads", "games"), **changes) -> Path:
    """Returns a finished run folder; changes go into data.json."""
    run.mkdir(parents=True)
    temperature = fit_temperature(scores.logits, scores.labels)
    write_predictions(run / "predictions.csv", scores, classes, temperature)
    metrics = {
        **evaluate_scores(scores, classes, temperature),
        "temperature": temperature,
        "random_split_auc": 0.998,
        "random_split_balanced_accuracy": 0.987,
        "sound_only_auc": 0.808,
        "sound_only_balanced_accuracy": 0.711,
        "wait_fraction": 0.043,
    }
    data = {
        "classes": list(classes),
        "demo": False,
        "weights": "ImageNet (torchvision)",
        "from_scratch": False,
        "split": "held-out groups",
        "train": {name: SIDE for name in classes},
        "validation": {name: SIDE for name in classes},
        "rejected": [],
        "no_sound": 4,
        **changes,
    }
    config = {
        "script": "train.py",
        "started": "2026-02-11T14:05:31",
        "constants": {"BATCH_SIZE": 8, "FRAME_SIZE": [96, 96]},
        "versions": {"torch": "2.14.1"},
        "machine": {"cores": 2},
    }
    for name, content in (("metrics", metrics), ("data", data), ("config", config)):
        (run / f"{name}.json").write_text(json.dumps(content))
    write_lines(run / "metrics.jsonl", [make_epoch(epoch) for epoch in range(1, 7)])
    write_lines(run / "monitor.jsonl", [make_reading(second) for second in range(1, 900)])
    return run


def make_epoch(epoch: int, **changes) -> dict:
    return {
        "phase": "heads" if epoch <= 3 else "fine-tune",
        "epoch": epoch,
        "epochs": 6,
        "learning_rate": 2e-4,
        "train_loss": 1 / epoch,
        "train_accuracy": 1 - 0.3 / epoch,
        "val_loss": 1.2 / epoch,
        "val_accuracy": 1 - 0.4 / epoch,
        "val_balanced_accuracy": 1 - 0.4 / epoch,
        "val_auc": 1 - 0.2 / epoch,
        "seconds": 12.0,
        "clips_per_second": 20.0,
        "wait_fraction": 0.25,
        "best": epoch == 5,
        **changes,
    }


def make_reading(second: int, **changes) -> dict:
    return {
        "seconds": float(second),
        "cpu_percent": 80.0,
        "memory_bytes": 2e9,
        "memory_percent": 40.0,
        "read_bytes_per_second": None,
        "write_bytes_per_second": 0.0,
        "gpus": [],
        **changes,
    }


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def no_thumbnails(recording: str, start_seconds: float, end_seconds: float) -> None:
    return None


def test_a_whole_run_shows_every_section_and_leaves_no_other_file(tmp_path):
    run = make_run(tmp_path / "run", make_scores())
    before = {entry.name for entry in run.iterdir()}
    page = Page(write_report(run, thumbnails=no_thumbnails))
    assert page.ids() == {
        "split",
        "classes",
        "confidence",
        "training",
        "groups",
        "wrong",
        "machine",
        "data",
        "configuration",
        "versions",
    }
    assert {entry.name for entry in run.iterdir()} == before | {"report.html"}


def test_intervals_stand_beside_their_numbers(tmp_path):
    scores = make_scores(skill=1.0)
    run = make_run(tmp_path / "run", scores)
    metrics = json.loads((run / "metrics.json").read_text())
    text = Page(write_report(run, thumbnails=no_thumbnails)).text
    assert "95 times in 100" not in text  # none were measured
    metrics |= metric_intervals(scores, ("ads", "games"), metrics["temperature"])
    metrics |= {"sound_only_auc_low": 0.123, "sound_only_auc_high": 0.987}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = Page(write_report(run, thumbnails=no_thumbnails)).text
    assert "95 times in 100" in text
    assert f"{metrics['accuracy_low']:.1%} to {metrics['accuracy_high']:.1%}" in text
    assert f"{metrics['auc_low']:.3f} to {metrics['auc_high']:.3f}" in text
    assert f"{metrics['nll']:.3f} {metrics['nll_low']:.3f} to {metrics['nll_high']:.3f}" in text
    assert "0.123 to 0.987" in text


def test_thresholds_learning_curve_and_seen_sources_have_their_sections(tmp_path):
    scores = make_scores(skill=1.0)
    run = make_run(tmp_path / "run", scores)
    assert (
        not {"thresholds", "learning", "seen-source"}
        & Page(write_report(run, thumbnails=no_thumbnails)).ids()
    )
    chosen = choose_thresholds(scores, ["ads", "games"], 1.0, Aim(max_game_loss=60))
    (run / "thresholds.json").write_text(json.dumps(chosen.to_dict()))
    groups = {0.5: 3.0, 1.0: 6.0}
    curve = summarize({0.5: [scores, scores], 1.0: [scores]}, groups, ["ads", "games"])
    (run / "learning_curve.json").write_text(json.dumps(curve.to_dict()))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {"seen_source_accuracy": 0.957, "seen_source_clips": 69}
    metrics |= {"unseen_source_accuracy": 0.913, "unseen_source_clips": 69}
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = Page(write_report(run, thumbnails=no_thumbnails))
    assert {"thresholds", "learning", "seen-source"} <= page.ids()
    for sentence in (*chosen.sentences()[1:], curve.sentence()):
        assert sentence in page.text
    assert "95.7% of 69 clips right" in page.text
    assert "91.3% of 69 clips right" in page.text
    bars = [found for tag, found in page.tags if tag == "line" and found.get("class") == "gap"]
    assert len([bar for bar in bars if "stroke" in bar.get("style", "")]) == 2 * len(groups)


def test_the_page_needs_nothing_from_outside_and_no_script(tmp_path):
    run = make_run(tmp_path / "run", make_scores())
    strip = np.zeros((6, 96, 96, 3), np.uint8)
    page = Page(write_report(run, thumbnails=lambda *_: strip))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "://" not in page.html
    assert "@import" not in page.html
    assert "url(" not in page.html


def test_the_summary_counts_clips_and_groups_in_words(tmp_path):
    scores = make_scores(skill=1.0)
    right = int((scores.logits.argmax(axis=1) == scores.labels).sum())
    assert right < 64
    page = Page(write_report(make_run(tmp_path / "run", scores), thumbnails=no_thumbnails))
    sentence = f"Of 64 clips from 8 groups of recordings it never saw in training, {right} got"
    assert sentence in page.text


def test_summary_says_which_network_was_judged(tmp_path):
    told = {}
    for cross_validated in (False, True):
        run = make_run(tmp_path / str(cross_validated), make_scores(skill=1.0))
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["cross_validated"] = cross_validated
        (run / "metrics.json").write_text(json.dumps(metrics))
        told[cross_validated] = Page(write_report(run, thumbnails=no_thumbnails)).text
    assert "has learned from all of them" in told[True]
    assert "best epoch and the calibration" in told[False]
    assert "best epoch and the calibration" not in told[True]


def test_one_wrong_of_a_thousand_is_not_called_all_right(tmp_path):
    scores = make_scores(groups=10, per_group=100, skill=20.0)
    scores.logits[0] = scores.logits[0][::-1]
    page = Page(write_report(make_run(tmp_path / "run", scores), thumbnails=no_thumbnails))
    assert "999 got the right label: 99.9%" in page.text


def test_numbers_of_metrics_json_are_shown(tmp_path):
    run = make_run(tmp_path / "run", make_scores(skill=1.0))
    metrics = json.loads((run / "metrics.json").read_text())
    text = Page(write_report(run, thumbnails=no_thumbnails)).text
    for key in ("accuracy", "balanced_accuracy", "ece", "precision_ads", "recall_games", "f1_ads"):
        assert f"{metrics[key]:.1%}" in text
    for key in ("auc", "random_split_auc", "sound_only_auc", "average_precision_games"):
        assert f"{metrics[key]:.3f}" in text
    assert "Random split" in text
    assert "picture alone" not in text  # was not measured
    assert "4.3% of its time waiting for data" in text


def test_names_of_files_groups_and_classes_never_become_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    scores = make_scores(classes=(evil, "games"), skill=0.5)
    rejected = [{"path": f"ads/{evil}.mp4", "reason": "<img src=x onerror=alert(1)>"}]
    run = make_run(tmp_path / "run", scores, (evil, "games"), rejected=rejected)
    config = json.loads((run / "config.json").read_text())
    config["constants"]["DATA_DIR"] = f'"{evil}'
    (run / "config.json").write_text(json.dumps(config))
    write_lines(run / "metrics.jsonl", [make_epoch(1, phase=evil)])
    page = Page(write_report(run, thumbnails=no_thumbnails))
    assert "<script" not in page.html
    assert "<img" not in page.html
    assert f"ads/{evil}.mp4" in page.text
    assert f"{evil}/source_0.mp4" in page.text


def test_shared_content_is_counted_and_named(tmp_path):
    shared = {"merged_groups": 4, "merged_into": 2, "left_out_clips": 3, "examples": ["a is <b>"]}
    run = make_run(tmp_path / "run", make_scores(), duplicates=shared)
    page = write_report(run, thumbnails=no_thumbnails).read_text()
    assert "several groups share" in page
    assert "4 groups were merged into 2" in page
    assert "3 clips were left out of training" in page
    assert "<li>a is &lt;b&gt;</li>" in page
    other = make_run(tmp_path / "other", make_scores())
    assert "several groups share" not in write_report(other, thumbnails=no_thumbnails).read_text()


def test_a_name_that_is_no_utf8_does_not_stop_the_report(tmp_path):
    rejected = [{"path": "ads/\udcff.mp4", "reason": "no picture"}]
    run = make_run(tmp_path / "run", make_scores(), rejected=rejected)
    assert "ads/?.mp4" in Page(write_report(run, thumbnails=no_thumbnails)).text


def test_wrong_clips_come_with_file_time_answer_and_pictures(tmp_path):
    scores = make_scores(skill=30.0)
    scores.logits[3] = [0.0, 40.0]
    asked = []

    def thumbnails(recording, start_seconds, end_seconds):
        asked.append((recording, start_seconds, end_seconds))
        return np.full((6, 360, 640, 3), (200, 30, 60), np.uint8)

    page = Page(write_report(make_run(tmp_path / "run", scores), thumbnails=thumbnails))
    assert asked == [("ads/source_0.mp4", 3630.0, 3640.0)]
    assert "1:00:30.0 to 1:00:40.0" in page.text
    assert re.search(r"is ads , it said games with \d+\.\d% confidence", page.text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 6
    assert all(image["alt"] for image in images)
    encoded = images[0]["src"].removeprefix("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert picture.size == (199, 112)
    assert np.abs(np.array(picture.getpixel((50, 50))) - (200, 30, 60)).max() < 8


def test_where_no_clip_is_wrong_the_least_sure_are_shown(tmp_path):
    page = Page(
        write_report(make_run(tmp_path / "run", make_scores(skill=30.0)), thumbnails=no_thumbnails)
    )
    assert "The clips it was least sure of" in page.text
    assert page.text.count("and it said so") == 10


@pytest.mark.parametrize(
    ("scores", "changes", "warning"),
    [
        ({}, {"demo": True}, "Demo videos"),
        ({}, {"from_scratch": True}, "No pretrained weights"),
        ({"groups": 4, "per_group": 30}, {}, "A small validation set"),
        ({"per_group": 2}, {}, "A small validation set"),
        ({"skill": 0.0}, {}, "Hardly better than guessing"),
        (
            {},
            {"train": {"ads": SIDE, "games": {**SIDE, "clips": 20}}},
            "Training had 60 clips of ads and 20 of games",
        ),
    ],
)
def test_what_a_reader_must_know_stands_in_a_warning(tmp_path, scores, changes, warning):
    plain = make_run(tmp_path / "plain", make_scores())
    assert warning not in Page(write_report(plain, thumbnails=no_thumbnails)).text
    run = make_run(tmp_path / "run", make_scores(**scores), **changes)
    assert warning in Page(write_report(run, thumbnails=no_thumbnails)).text


def test_one_class_in_validation_gives_a_page_that_says_so(tmp_path):
    scores = make_scores()
    scores.labels[:] = 0
    page = Page(write_report(make_run(tmp_path / "run", scores), thumbnails=no_thumbnails))
    assert "There was no validation clip of games" in page.text
    assert "n/a" in page.text


def test_an_uneven_validation_set_names_the_answer_that_would_always_do(tmp_path):
    scores = make_scores()
    scores.labels[:] = np.arange(64) % 8 == 0
    page = Page(write_report(make_run(tmp_path / "run", scores), thumbnails=no_thumbnails))
    assert "Always saying ads would be right for 88%" in page.text


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_run_stopped_early_gives_a_page(tmp_path, epochs):
    run = make_run(tmp_path / "run", make_scores())
    (run / "metrics.json").unlink()
    (run / "predictions.csv").unlink()
    (run / "monitor.jsonl").write_text('{"seconds": 1')
    broken = make_epoch(1, val_auc=None, val_loss=float("nan"))
    write_lines(run / "metrics.jsonl", [broken][:epochs])
    page = Page(write_report(run, thumbnails=no_thumbnails))
    assert "Not finished" in page.text
    assert ("training" in page.ids()) == (epochs == 1)
    assert "data" in page.ids()


def test_an_empty_run_folder_gives_a_page(tmp_path):
    page = Page(write_report(tmp_path, thumbnails=no_thumbnails))
    assert "before its first epoch ended" in page.text
    assert page.ids() == set()


def test_missing_numbers_and_null_readings_leave_gaps_and_no_nan(tmp_path):
    run = make_run(tmp_path / "run", make_scores())
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.update(auc=float("nan"), ece=None, random_split_auc=None)
    (run / "metrics.json").write_text(json.dumps(metrics))
    lines = [make_epoch(epoch, val_auc=None) for epoch in range(1, 4)]
    write_lines(run / "metrics.jsonl", [*lines, make_epoch(4, val_loss=float("inf"))])
    nothing = {"cpu_percent": None, "memory_bytes": None, "gpus": [{"power_watts": None}]}
    write_lines(run / "monitor.jsonl", [make_reading(1, **nothing), make_reading(2)])
    page = Page(write_report(run, thumbnails=no_thumbnails))
    assert not re.search(r"\bnan\b|\binf\b", page.html.replace("inset", ""))
    assert "None" not in page.text


def test_many_classes_and_groups_fit(tmp_path):
    classes = ("ads", "games", "news", "studio", "weather")
    scores = make_scores(classes, groups=200, per_group=2)
    page = Page(write_report(make_run(tmp_path / "run", scores, classes), thumbnails=no_thumbnails))
    assert "The other 188 groups" in page.text
    assert all(f"{classes[index % 5]}/source_{index} " in page.text for index in range(200))
    assert "It is best at" in page.text


def test_each_phase_is_marked_where_it_starts(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run", make_scores()), thumbnails=no_thumbnails))
    marks = re.findall(r'<text class="mark" x="([\d.]+)" y="\d+">([\w-]+)</text>', page.html)
    assert [name for _, name in marks] == ["heads", "fine-tune"] * 2
    assert float(marks[1][0]) == pytest.approx(50 + (4 - 1) / 5 * (420 - 50 - 12), abs=0.1)


def test_a_gpu_is_drawn_where_there_is_one(tmp_path):
    run = make_run(tmp_path / "run", make_scores())
    assert "GPU" not in Page(write_report(run, thumbnails=no_thumbnails)).text
    gpu = {"utilization_percent": 87, "memory_bytes": 6e9, "power_watts": None}
    write_lines(run / "monitor.jsonl", [make_reading(s, gpus=[gpu]) for s in range(1, 20)])
    text = Page(write_report(run, thumbnails=no_thumbnails)).text
    assert "GPU, mean 87 %" in text
    assert "GPU power" not in text


def test_waiting_is_weighed_by_time_where_the_run_did_not_finish(tmp_path):
    run = make_run(tmp_path / "run", make_scores())
    (run / "metrics.json").unlink()
    slow, quick = make_epoch(1, seconds=90.0, wait_fraction=0.5), make_epoch(2, seconds=10.0)
    write_lines(run / "metrics.jsonl", [slow, quick])
    text = Page(write_report(run, thumbnails=no_thumbnails)).text
    assert "47.5% of its time waiting for data. That is much" in text


def test_a_failure_leaves_the_report_that_was_there(tmp_path):
    run = make_run(tmp_path / "run", make_scores(skill=0.5))
    path = write_report(run, thumbnails=no_thumbnails)
    before = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(run, thumbnails=fail)
    assert path.read_bytes() == before
