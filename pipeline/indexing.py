"""Indexing: the champion's embeddings of all clips in the store, and an index to search them."""

import shutil

from tqdm import tqdm

from pipeline.drift import make_profile
from pipeline.judging import prepare_for
from pipeline.preparing import read_snapshot
from pipeline.profile import write_profile
from pipeline.records import PipelineError, read_json, write_json
from pipeline.source import open_recordings
from pipeline.steps import Pipeline, Step
from pipeline.validation import class_hours
from search.clip_store import ClipStore, open_clip_store
from search.embeddings import plan_clips, store_clips
from search.finder import index_folder
from search.model import SearchModel, embedder_folder
from search.names import place_of, storable
from search.vector_index import INFO, IndexMismatch, VectorIndex, open_index
from training.checkpoint import load_checkpoint
from training.device import choose_device
from training.registry import Version, hash_file
from utils.recordings import Recording

EMBEDDED = "embedded.json"  # names of the recordings whose clips were put
KEPT_CHAMPIONS = 2  # whose clips stay in the store: the present one's, and those to go back to


class Embed(Step):
    name = "embed"
    about = "bring the clip store to the champion's embeddings of all clips"

    def inputs(self, pipeline: Pipeline) -> dict:
        champion = pipeline.registry.champion
        return {
            "champion": champion.name if champion else None,
            "recordings": pipeline.outputs("prepare")["snapshot"],
        }

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        if outputs["state"] is None:
            return None
        with open_store(pipeline) as store:
            same = store.state(model_version=outputs["model"]) == outputs["state"]
            return None if same else f"{store.name} holds other clips now"

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        champion = pipeline.registry.champion
        if champion is None:
            return {"state": None, "model": None, "clips": 0}, "skipped, there is no champion yet"
        with open_store(pipeline) as store:
            changes = put_clips(pipeline, champion, store)
            state = store.state(model_version=champion.id)
            clips = store.count(model_version=champion.id)
            name = store.name
        outputs = {"model": champion.id, "state": state, "clips": clips}
        return outputs, f"{clips} clips in {name}, {changes}"


class Index(Step):
    name = "index"
    about = "make the index of the champion's embeddings that search_clips.py asks"

    def inputs(self, pipeline: Pipeline) -> dict:
        embedded = pipeline.outputs("embed")
        return {"model": embedded["model"], "clips": embedded["state"]}

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        if outputs["index"] is None:
            return None
        embedded = pipeline.outputs("embed")
        folder = index_folder(pipeline.settings.cache_dir, embedded["model"])
        try:
            VectorIndex.load(folder, model_version=embedded["model"], state=embedded["state"])
        except IndexMismatch as error:
            return str(error)
        return None

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        embedded = pipeline.outputs("embed")
        if embedded["model"] is None:
            return {"index": None}, "skipped, there is no champion yet"
        folder = index_folder(pipeline.settings.cache_dir, embedded["model"])
        with open_store(pipeline) as store:
            index = open_index(store, folder, model_version=embedded["model"], fresh=True)
        if index.state != embedded["state"]:
            raise PipelineError(
                "index: the clip store changed meanwhile: run run_pipeline.py again"
            )
        if index.note:
            pipeline.warn(index.note)
        outputs = {"index": hash_file(folder / INFO), "kind": index.kind}
        return outputs, f"{len(index)} clips in {folder}, {index.kind}"


def open_store(pipeline: Pipeline) -> ClipStore:
    return open_clip_store(cache_dir=pipeline.settings.cache_dir)


def put_clips(pipeline: Pipeline, champion: Version, store: ClipStore) -> str:
    """Brings the store in step with the snapshot, and says in a few words what changed.

    Clips of recordings that were put here before and are gone now go, and so do those of champions
    before the last KEPT_CHAMPIONS; what others put into the store stays.
    """
    source = open_recordings(pipeline)

    def name_of(recording: Recording) -> str:
        return place_of(source.place(recording.name), source.is_remote)  # as search_clips.py does

    checkpoint = load_checkpoint(champion.model, choose_device())
    rows = read_snapshot(pipeline)
    prepared = prepare_for(pipeline, checkpoint.spec, {row["name"] for row in rows})
    model = SearchModel.of(checkpoint, champion.id, champion.model)
    model.keep(pipeline.settings.cache_dir)  # for the questions that follow
    planned = plan_clips(
        prepared, champion.id, clip_seconds=checkpoint.clip_seconds, name_of=name_of
    )
    frames = sum(prepared.store.num_rows(key, "frames") for key in prepared.keys.values())
    with tqdm(total=frames, desc="embed", unit="frame", delay=1, leave=False) as bar:
        changes = store_clips(store, model.embedder, prepared.store, planned, report=bar.update)
    mine = sorted(storable(name_of(recording)) for recording in prepared.keys)
    before = read_json(pipeline.folder / EMBEDDED) or {"recordings": [], "models": []}
    for name in sorted(set(before["recordings"]) - set(mine)):
        store.delete(recording=name)
    reigns = [reign.version.partition("-")[2] for reign in reversed(pipeline.registry.history())]
    kept = list(dict.fromkeys(reigns))[:KEPT_CHAMPIONS]
    for model in sorted(set(before["models"]) - set(kept)):
        store.delete(model_version=model)
        for folder in (index_folder, embedder_folder):
            shutil.rmtree(folder(pipeline.settings.cache_dir, model), ignore_errors=True)
    write_json(pipeline.folder / EMBEDDED, {"recordings": mine, "models": kept})
    ours = set(mine)
    clips = (clip for clip in store.find(model_version=champion.id) if clip.recording in ours)
    seen = make_profile(champion.id, (clip.vector for clip in clips))
    seconds = {recording.name: prepared.seconds(recording) for recording in prepared.keys}
    hours = class_hours(prepared.keys, seconds)
    write_profile(pipeline, seen, hours, prepared.keys.values())
    return f"{changes.embedded} embedded anew, {changes.deleted} deleted"
