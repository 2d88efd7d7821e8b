"""Ingest: the recordings as they lie in a folder, a list or on S3, and what of them is new."""

import os

from pipeline.records import digest, read_json, write_json
from pipeline.source import DEFAULT_DATA_DIR, demo_folder, is_demo, open_recordings
from pipeline.steps import Pipeline, Step
from utils.demo_data import is_demo_set, make_demo_set
from utils.recordings import is_video
from utils.sources import Source

FILES = "files.json"  # stamps of all files by name, as they were ingested


class Ingest(Step):
    name = "ingest"
    about = "list the recordings in a folder or on S3, and what of them is new"

    def inputs(self, pipeline: Pipeline) -> dict:
        if is_demo(pipeline):
            return {"source": "the demo set", "files": "as they are made"}
        source = open_recordings(pipeline)
        return {"source": source.name, "files": digest(_stamps(source))}

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        if outputs["demo"] and not is_demo_set(demo_folder(pipeline)):
            return "the demo set is gone"
        return None

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        if is_demo(pipeline) and not is_demo_set(demo_folder(pipeline)):
            folder = demo_folder(pipeline)
            pipeline.warn(f"no video in {DEFAULT_DATA_DIR}/: made ones in {folder} stand in")
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_demo_set(folder, workers=os.cpu_count() or 1)
        source = open_recordings(pipeline)
        stamps, before = _stamps(source), read_json(pipeline.folder / FILES)
        new = sum(before.get(name) != stamp for name, stamp in stamps.items())
        gone = len(before.keys() - stamps.keys())
        write_json(pipeline.folder / FILES, stamps)
        videos = sum(map(is_video, stamps))
        outputs = {
            "source": source.name,
            "demo": is_demo(pipeline),
            "files": digest(stamps),
            "videos": videos,
        }
        return outputs, f"{videos} videos in {source.name}, {new} files new, {gone} gone"


def _stamps(source: Source) -> dict[str, list]:
    return {name: source.stamp(name) for name in source.list_files() if not name.endswith("/")}
