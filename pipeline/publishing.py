"""Publishing: the champion, its index and its clips as objects on S3, and the way back from there.

    PREFIX/objects/<sha256>/<name>   contents, never written again
    PREFIX/releases/<id>.json        {"files": {name: {"sha256", "size_bytes"}}, ...}
    PREFIX/champion.json             {"release": id}: what is in use, moved last

A release is complete before the alias names it. One that breaks off leaves the alias, and all that
it names, as it was.
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
    replace_bytes,
    update_json,
)
from pipeline.profile import profile_path
from pipeline.records import PipelineError, digest
from pipeline.steps import Pipeline, Step
from search.clip_store import open_clip_store
from search.finder import index_folder
from search.vector_index import INFO

BUCKET_VARIABLE = "S3_BUCKET_NAME"
INSTANCE_VARIABLE = "ADGAME_BUCKET"  # on an instance of `run_training.sh aws BUCKET`
ALIAS = "champion.json"
DUMP = "clips.sqlite"  # the champion's clips, whichever store they are in
STAGE = "publish"  # folder of what is made for a release, below the cache
SENDS = 3  # of a content that arrives damaged


class Publish(Step):
    name = "publish"
    about = "put model, index, clips and report on S3, and move the alias last"

    def inputs(self, pipeline: Pipeline) -> dict:
        champion = pipeline.registry.champion
        return {
            "place": publish_url(pipeline),
            "champion": champion.name if champion else None,
            "index": pipeline.outputs("index")["index"],
            "clips": pipeline.outputs("embed")["state"],
        }

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        url = publish_url(pipeline)
        if outputs["release"] is None or url is None:
            return None
        try:
            there = json.loads(read_bytes(f"{url}/{ALIAS}")[0]).get("release")
        except FileNotFoundError:
            there = None
        return None if there == outputs["release"] else f"{url}/{ALIAS} names {there}"

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        url, champion = publish_url(pipeline), pipeline.registry.champion
        if url is None:
            return {"release": None}, f"skipped, no bucket is set (BUCKET or {BUCKET_VARIABLE})"
        if champion is None:
            return {"release": None}, "skipped, there is no champion yet"
        files = release_files(pipeline)
        digests = {name: digest_file(path) for name, path in files.items()}
        manifest = {
            "champion": champion.name,
            "facts": champion.facts,
            "clips": pipeline.outputs("embed")["state"],
            "files": {
                name: {"sha256": known.sha256, "size_bytes": known.size_bytes}
                for name, known in digests.items()
            },
        }
        release = digest(manifest)
        sent = send_contents(url, files, digests)
        put_manifest(f"{url}/releases/{release}.json", manifest)
        update_json(f"{url}/{ALIAS}", lambda old: {"release": release, "champion": champion.name})
        return {"release": release, "url": url}, f"{champion.name} in {url}, {sent} files sent"


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
        target = _content_url(url, name, digests[name])
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


def restore_champion(pipeline: Pipeline) -> None:
    """Fetches the published champion where this machine has none, as a fresh instance has.

    So the next challenger is held against it, and new recordings against the last run's.
    """
    url = publish_url(pipeline)
    if url is None or pipeline.registry.champion is not None:
        return
    try:
        release = json.loads(read_bytes(f"{url}/{ALIAS}")[0])["release"]
    except FileNotFoundError:
        return
    manifest = json.loads(read_bytes(f"{url}/releases/{release}.json")[0])
    folder = Path(pipeline.settings.cache_dir, "restored")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, file in manifest["files"].items():
        if "/" not in name and name != DUMP:
            path = folder / name
            target = f"{url}/objects/{file['sha256']}/{name}"
            get_file(head(target), path)
            if digest_file(path).sha256 != file["sha256"]:
                raise S3DamagedError(DAMAGED, target)
    facts = {k: v for k, v in manifest["facts"].items() if k not in ("run", "added")}
    version = pipeline.registry.add(folder, facts)
    pipeline.folder.mkdir(parents=True, exist_ok=True)
    os.replace(folder / "profile.json", profile_path(pipeline))
    pipeline.registry.promote(version, f"published as {manifest['champion']} in {url}")
    pipeline.say("", f"the champion is {manifest['champion']} of {url}, {version.name} here")
    shutil.rmtree(folder)


def _content_url(url: str, name: str, known: Digests) -> str:
    return f"{url}/objects/{known.sha256}/{Path(name).name}"


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
