"""Preparing: recordings decoded into the feature store, and set apart to learn from and to judge.

runs/pipeline/snapshot.json        every usable recording: content, group, labels, and its side
runs/pipeline/test_clips.json      the clips that judge every model
runs/pipeline/lists/<digest>.txt   what training reads: the recordings of its side, and no more
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from cloud.s3 import S3Folder
from pipeline.drift import embedding_drift, make_profile
from pipeline.profile import read_profile
from pipeline.records import PipelineError, digest, read_json, write_json
from pipeline.source import open_recordings
from pipeline.split import choose_test_groups, groups_by_class
from pipeline.steps import Pipeline, Step
from pipeline.validation import Findings, limits_of
from search.embedder import ClipEmbedder
from search.embeddings import embed_clips, plan_clips
from training.checkpoint import load_checkpoint
from training.device import choose_device
from utils.config import Config
from utils.duplicates import Duplicates, find_duplicates, regrouped
from utils.file_list import FileList
from utils.files import write_whole
from utils.labels import LABEL_SUFFIXES
from utils.preparation import content_hashes, prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
from utils.recordings import Recording, Span, find_recordings
from utils.sources import Source

SNAPSHOT, TEST_CLIPS, LISTS = "snapshot.json", "test_clips.json", "lists"
TRAIN, TEST = "train", "test"
DRIFT_RECORDINGS = 200  # of the new ones, at most, that are looked at with the champion


class Prepare(Step):
    """With data/validation, that judges, and training holds groups of its own out of the rest."""

    name = "prepare"
    about = "decode what is new, and set groups apart that no model ever learns from"

    def inputs(self, pipeline: Pipeline) -> dict:
        settings = pipeline.settings
        return {
            "recordings": pipeline.outputs("ingest")["files"],
            "features": settings.train_config().feature_spec.id,
            "test groups": [settings.test_fraction, settings.seed],
            "limits": limits_of(settings),
        }

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        if not Path(outputs["list"]).exists():
            return "its list for training is gone"
        store = open_feature_store(
            pipeline.settings.cache_dir, pipeline.settings.train_config().feature_spec
        )
        missing = sum(row["key"] not in store for row in read_snapshot(pipeline))
        return f"{missing} recordings are not in the cache" if missing else None

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        settings, source = pipeline.settings, open_recordings(pipeline)
        config = settings.train_config()
        recordings = find_recordings(source, lambda line: None)  # validate has said it
        prepared, duplicates = prepare_all(recordings, source, config)
        merged = duplicates.merged_groups(cut(prepared, config))
        prepared = regrouped(prepared, merged)
        held_out = [r for r in prepared.keys if r.validation]
        test = {r.group for r in held_out} or choose_test_groups(
            groups_by_class(prepared.keys), fraction=settings.test_fraction, seed=settings.seed
        )
        findings = Findings()
        for item in prepared.rejected:
            findings.warnings.append(f"{item.recording.name} is set aside: {item.reason}")
        if drift := champion_drift(pipeline, prepared):
            count, moved = drift
            findings.limit(
                moved,
                settings.max_embedding_drift,
                f"{count} new recordings look {moved:.2f} deviations away from the last run's: "
                f"look at them, or raise MAX_EMBEDDING_DRIFT {settings.max_embedding_drift:g}",
            )
        findings.settle(pipeline, self.name)
        clips = cut(prepared, config)
        judging = [clip for clip in clips if clip.recording.group in test]
        learned = [clip for clip in clips if clip.recording.group not in test]
        judging, twins = duplicates.part_twins(judging, learned)
        rows = [
            _row(recording, key, TEST if recording.group in test else TRAIN)
            for recording, key in sorted(prepared.keys.items())
        ]
        spans = [
            [clip.recording.name, clip.start_seconds, clip.end_seconds, clip.label]
            for clip in judging
        ]
        write_json(pipeline.folder / TEST_CLIPS, spans)
        write_json(pipeline.folder / SNAPSHOT, rows)
        training = [row for row in rows if row["side"] == TRAIN]
        outputs = {
            "snapshot": digest(rows),
            "train": digest(training),
            "test": digest([spans, [row for row in rows if row["side"] == TEST]]),
            "twins": len(twins),  # test clips left out, as training shows the same
            "list": str(write_list(pipeline, training, source)),
            "rejected": len(prepared.rejected),
            "drift": drift and drift[1],
        }
        said = f"{len(training)} recordings to learn from, {len(rows) - len(training)} to judge on"
        return outputs, f"{said}, {len(prepared.rejected)} set aside"


def prepare_all(
    recordings: list[Recording], source: Source, config: Config
) -> tuple[PreparedSet, Duplicates]:
    """All recordings as the training script wants them, and what they share."""
    prepared = prepare_recordings(
        recordings,
        source,
        config.feature_spec,
        config.cache_dir,
        workers=config.workers,
        max_rejected=config.max_rejected,
    )
    keys = list(prepared.keys.values())
    return prepared, find_duplicates(prepared.store, prepared.spec, keys, config.cache_dir)


def cut(prepared: PreparedSet, config: Config) -> list:
    """The labelled clips, as training cuts them."""
    return prepared.clips(
        config.clip_seconds, config.clip_hop_seconds, margin_seconds=config.label_margin_seconds
    )


def read_snapshot(pipeline: Pipeline) -> list[dict]:
    """A row for each usable recording. Raises PipelineError where prepare was not done."""
    rows = read_json(pipeline.folder / SNAPSHOT)
    if not rows:
        raise PipelineError(f"{pipeline.folder / SNAPSHOT} is gone: run with --from prepare")
    return rows


def recordings_of(rows: Iterable[dict]) -> dict[Recording, str]:
    """The recordings of a snapshot with their keys."""
    return {_recording(row): row["key"] for row in rows}


def champion_drift(pipeline: Pipeline, prepared: PreparedSet) -> tuple[int, float] | None:
    """How many recordings are new, and how far the champion sees them from the last run's.

    None where nothing is new, or there is nothing to hold it against.
    """
    champion = pipeline.registry.champion
    profile, known = read_profile(pipeline, champion.id) if champion else (None, set())
    new = {r: key for r, key in prepared.keys.items() if key not in known}
    if profile is None or not new:
        return None
    checkpoint = load_checkpoint(champion.model, choose_device())
    if checkpoint.spec != prepared.spec:
        return None  # it wants other features, which the last run's had
    order = np.random.default_rng(pipeline.settings.seed).permutation(len(new))
    chosen = [sorted(new)[place] for place in order[:DRIFT_RECORDINGS]]
    some = dataclasses.replace(prepared, keys={r: new[r] for r in chosen})
    embedder = ClipEmbedder(checkpoint.model, checkpoint.spec, champion.id)
    planned = plan_clips(some, champion.id, clip_seconds=checkpoint.clip_seconds)
    clips = embed_clips(embedder, prepared.store, planned)
    seen = make_profile(champion.id, (clip.vector for clip in clips))
    return len(new), embedding_drift(profile, seen)


def write_list(pipeline: Pipeline, rows: list[dict], source: Source) -> Path:
    """The list of files that training reads. Their hashes, which are known, go with it."""
    names = sorted(_files_of(rows, source))
    lines = "".join(f"{_line(name, source.place(name))}\n" for name in names)
    path = pipeline.folder / LISTS / f"{digest([lines, rows])}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lines.encode())
    cache_dir = pipeline.settings.cache_dir
    known = content_hashes(cache_dir, source).known()
    listed = FileList(path, S3Folder)
    hashes = content_hashes(cache_dir, listed)
    for name in names:
        stamp, value = known.get(name, (None, None))
        if stamp is not None and stamp == listed.stamp(name):
            hashes.learn(name, stamp, value)
    hashes.save()
    return path


def _files_of(rows: list[dict], source: Source) -> Iterator[str]:
    """Videos, the sound beside them, and their label files."""
    stems = {str(PurePosixPath(row["name"]).with_suffix("")) for row in rows}
    yield from (name for row in rows for name in row["files"])
    for name in source.list_files():
        path = PurePosixPath(name)
        if path.suffix.lower() in LABEL_SUFFIXES and str(path.with_suffix("")) in stems:
            yield name


def _line(name: str, place: str) -> str:
    text = name + place
    if not text.isprintable() or place != place.strip():  # bytes that are no UTF-8 are not, either
        raise PipelineError(f"{name!r} has characters that no list can hold: rename the file")
    return f"{place}\t{name.rpartition('/')[0]}"


def _row(recording: Recording, key: str, side: str) -> dict:
    return {
        "name": recording.name,
        "files": list(recording.files),
        "spans": [
            [s.start_seconds, None if math.isinf(s.end_seconds) else s.end_seconds, s.label]
            for s in recording.spans
        ],
        "group": recording.group,
        "validation": recording.validation,
        "key": key,
        "side": side,
    }


def _recording(row: dict) -> Recording:
    spans = tuple(
        Span(start, math.inf if end is None else end, label) for start, end, label in row["spans"]
    )
    return Recording(row["name"], tuple(row["files"]), spans, row["group"], row["validation"])
