"""Publishing: the champion, its index, its clips and the pipeline's state as objects on S3.

    PREFIX/objects/<sha256>/<name>   contents, never written again
    PREFIX/releases/<id>.json        {"files": {name: {"sha256", "size_bytes"}}, ...}
    PREFIX/champion.json             {"release": id, ...}: what is in use, moved last

A release is complete before the alias names it. One that breaks off leaves the alias, and all that
it names, as it was. Its files below `state/` are what the pipeline knows of its champions and of
what it has done: with them another machine goes on (`takeover`).
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

from cloud.local_copy import Digests, digest_file, progress_bar
from cloud.s3 import (
    DAMAGED,
    S3ChangedError,
    S3DamagedError,
    S3Object,
    get_file,
    head,
    list_objects,
    put_file,
    read_bytes,
    read_json,
    replace_bytes,
    update_json,
)
from pipeline.preparing import LISTS
from pipeline.profile import profile_path
from pipeline.records import PipelineError, digest, write_json
from pipeline.steps import Pipeline, Step
from search.clip_store import open_clip_store
from search.finder import index_folder
from search.vector_index import INFO
from training.registry import FACTS, HISTORY, hash_file

BUCKET_VARIABLE = "S3_BUCKET_NAME"
INSTANCE_VARIABLE = "ADGAME_BUCKET"  # on an instance of `run_training.sh aws BUCKET`
ALIAS = "champion.json"
STATE = "state/"  # names of a release below it are files of the runs folder
SEEN = "published.json"  # the release that this machine last made or took over
DUMP = "clips.sqlite"  # the champion's clips, whichever store they are in
STAGE = "publish"  # folder of what is made for a release, below the cache
SENDS = 3  # of a content that arrives damaged


class Publish(Step):
    name = "publish"
    about = "put model, index, clips and report on S3, and move the alias last"

    def inputs(self, pipeline: Pipeline) -> dict:
        champion, url = pipeline.registry.champion, publish_url(pipeline)
        state = state_files(pipeline) if url else {}
        return {
            "place": url,
            "champion": champion.name if champion else None,
            "index": pipeline.outputs("index")["index"],
            "clips": pipeline.outputs("embed")["state"],
            "state": digest({name: hash_file(path) for name, path in state.items()}),
        }

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        url = publish_url(pipeline)
        if outputs["release"] is None or url is None:
            return None
        there = read_json(f"{url}/{ALIAS}")[0].get("release")
        return None if there == outputs["release"] else f"{url}/{ALIAS} names {there}"

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        url, champion = publish_url(pipeline), pipeline.registry.champion
        if url is None:
            return {"release": None}, f"skipped, no bucket is set (BUCKET or {BUCKET_VARIABLE})"
        if champion is None:
            return {"release": None}, "skipped, there is no champion yet"
        release, sent = put_release(pipeline, url, release_files(pipeline))
        outputs = {"release": release, "url": url}
        return outputs, f"{champion.name} in {url}, {sent} files sent"


def put_release(
    pipeline: Pipeline, url: str, files: dict[str, Path], there: dict[str, dict] | None = None
) -> tuple[str, int]:
    """Makes a release of the champion, and moves the alias to it; its id, and how many files were
    sent.

    It holds `files`, the state, and contents that are `there` already, as a manifest names them.
    """
    champion, files = pipeline.registry.champion, {**files, **state_files(pipeline)}
    digests = {name: digest_file(path) for name, path in files.items()}
    manifest = {
        "champion": champion.name,
        "facts": champion.facts,
        "files": {
            **(there or {}),
            **{
                name: {"sha256": known.sha256, "size_bytes": known.size_bytes}
                for name, known in digests.items()
            },
        },
    }
    release = digest(manifest)
    sent = send_contents(url, files, digests)
    put_manifest(f"{url}/releases/{release}.json", manifest)

    def name_it(old: dict) -> dict:
        # The last release of each model, for the way back to it.
        releases = {**old.get("releases", {}), champion.id: release}
        return {"release": release, "champion": champion.name, "releases": releases}

    update_json(f"{url}/{ALIAS}", name_it)
    write_json(pipeline.folder / SEEN, {"release": release})
    return release, sent


def publish_url(pipeline: Pipeline) -> str | None:
    """Where releases are; None where no bucket is set."""
    settings = pipeline.settings
    named = (os.environ.get(variable) for variable in (BUCKET_VARIABLE, INSTANCE_VARIABLE))
    bucket = settings.bucket or next(filter(None, named), None)
    if bucket is None:
        return None
    return f"s3://{bucket.removeprefix('s3://').strip('/')}/{settings.prefix.strip('/')}"


def release_files(pipeline: Pipeline) -> dict[str, Path]:
    """The files of a release by name: those of the version, the index, the clips, the profile."""
    champion = pipeline.registry.champion
    index = index_folder(pipeline.settings.cache_dir, champion.id)
    champion.check()
    files = {name: champion.folder / name for name in champion.files}
    tag = json.loads((index / INFO).read_bytes())["tag"]
    files |= {f"index/{path.name}": path for path in sorted(index.glob(f"{tag}-*"))}
    files[f"index/{INFO}"] = index / INFO
    files[DUMP] = dump_clips(pipeline)
    files["profile.json"] = profile_path(pipeline)
    return files


def state_files(pipeline: Pipeline) -> dict[str, Path]:
    """What another machine needs to go on, by its name in a release: what the steps have noted and
    listed, and all that was ever champion.
    """
    folder, registry = pipeline.folder, pipeline.registry
    own = {SEEN, f"{Publish.name}.json"}
    found = [p for p in folder.glob("*.*") if p.suffix in (".json", ".csv") and p.name not in own]
    if record := pipeline.record("prepare"):
        found.append(folder / LISTS / Path(record.outputs["list"]).name)
    reigned = {reign.version for reign in registry.history()}
    if record := pipeline.record("promote"):
        reigned.add(record.outputs["version"])  # the last challenger: it is not judged again
    for version in registry.versions():
        if version.name in reigned:
            found += [version.folder / name for name in (FACTS, *version.files)]
    found.append(registry.folder / HISTORY)
    runs = Path(pipeline.settings.runs_dir)
    return {f"{STATE}{path.relative_to(runs).as_posix()}": path for path in found if path.exists()}


def dump_clips(pipeline: Pipeline) -> Path:
    """The champion's clips in an SQLite file of their own, whichever store they are in.

    It is kept while they stay the same: a new one would differ in its bytes.
    """
    cache_dir, embedded = pipeline.settings.cache_dir, pipeline.outputs("embed")
    stage = Path(cache_dir, STAGE)
    path = stage / f"{embedded['model']}-{embedded['state']}" / DUMP
    if not path.exists():
        shutil.rmtree(stage, ignore_errors=True)
        partial = stage / "partial" / DUMP
        with (
            open_clip_store(cache_dir=cache_dir) as store,
            open_clip_store(str(partial), cache_dir=cache_dir) as dump,
        ):
            dump.put(store.find(model_version=embedded["model"]))
            if dump.state() != embedded["state"]:
                raise PipelineError(
                    "publish: the clip store changed meanwhile: run run_pipeline.py again"
                )
        os.rename(partial.parent, path.parent)
    return path


def send_contents(url: str, files: dict[str, Path], digests: dict[str, Digests]) -> int:
    """Sends what is not there, and sees to it that what arrived is what is here.

    Returns how many files were sent.
    """
    there = {item.url: item for item in list_objects(f"{url}/objects")}
    waiting = {}
    for name, path in files.items():
        target = content_url(url, name, digests[name].sha256)
        if target not in there or not _is_same(there[target], digests[name], path):
            waiting[target] = (path, digests[name])
    total = sum(known.size_bytes for _, known in waiting.values())
    with progress_bar("publish", total) as on_bytes:
        for target, (path, known) in waiting.items():
            for _ in range(SENDS):
                with contextlib.suppress(S3DamagedError):  # S3 refused it, so it is not there
                    put_file(path, target, on_bytes)
                    if _is_same(head(target), known, path):
                        break
            else:
                raise S3DamagedError(DAMAGED, target)
    return len(waiting)


def put_manifest(url: str, manifest: dict) -> None:
    """Its name is its content: one that is there already is the same."""
    content = json.dumps(manifest, indent=1, sort_keys=True).encode()
    try:
        replace_bytes(url, content, None)
    except S3ChangedError:
        if read_bytes(url)[0] != content:
            raise


def content_url(url: str, name: str, sha256: str) -> str:
    """Where the content of a release's file is."""
    return f"{url}/objects/{sha256}/{Path(name).name}"


def _is_same(item: S3Object, known: Digests, path: Path) -> bool:
    if item.size_bytes != known.size_bytes:
        return False
    if item.etag.strip('"') == known.etag:
        return True
    copy = path.with_name(f".{path.name}.partial")  # with KMS keys the ETag says nothing
    try:
        get_file(item, copy)
        return digest_file(copy).sha256 == known.sha256
    finally:
        copy.unlink(missing_ok=True)
