"""Takeover: what was published last becomes what this machine goes on with."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cloud import s3
from cloud.local_copy import digest_file
from cloud.s3 import DAMAGED, S3DamagedError, get_file, head, read_bytes
from pipeline.profile import profile_path
from pipeline.publishing import ALIAS, DUMP, SEEN, STATE, content_url, publish_url, put_release
from pipeline.records import read_json, write_json
from pipeline.steps import Pipeline
from search.clip_store import open_clip_store
from search.finder import index_folder
from training.registry import HISTORY, MODELS, Version

INDEX = "index/"  # names of a release below it are files of the index
SCRATCH = "restored"  # folder in the cache


def take_over(pipeline: Pipeline) -> None:
    """Follows a release that another machine has made since this one last made or saw one.

    A machine that never had a champion, as a fresh instance, becomes as the other one was: its
    champions, its records, its clips. Any other takes the champion alone. So the next challenger is
    held against the model in use, wherever that was made.
    """
    url = publish_url(pipeline)
    if url is None:
        return
    release = s3.read_json(f"{url}/{ALIAS}")[0].get("release")
    if release is None or release == read_json(pipeline.folder / SEEN).get("release"):
        return
    try:
        manifest = json.loads(read_bytes(f"{url}/releases/{release}.json")[0])
    except FileNotFoundError:
        return  # the alias is wrong: publishing moves it back
    whole = not pipeline.registry.history() and f"{STATE}{MODELS}/{HISTORY}" in manifest["files"]
    champion = _take_all(pipeline, url, manifest) if whole else _adopt(pipeline, url, manifest)
    write_json(pipeline.folder / SEEN, {"release": release})
    pipeline.say("champion", f"{champion.name} is taken over from {url}, as it was published there")


def publish_rollback(pipeline: Pipeline) -> str | None:
    """Publishes the champion anew out of its last release, without its recordings; its place.

    None where nothing is published, or that champion never was.
    """
    url, champion = publish_url(pipeline), pipeline.registry.champion
    known = s3.read_json(f"{url}/{ALIAS}")[0].get("releases", {}) if url else {}
    if champion.id not in known:
        return None
    manifest = json.loads(read_bytes(f"{url}/releases/{known[champion.id]}.json")[0])
    files = {n: file for n, file in manifest["files"].items() if not n.startswith(STATE)}
    put_release(pipeline, url, {}, files)
    return url


def _take_all(pipeline: Pipeline, url: str, manifest: dict) -> Version:
    folder, runs = _scratch(pipeline), Path(pipeline.settings.runs_dir)
    _fetch(url, manifest, folder, lambda name: name.startswith((STATE, INDEX)) or name == DUMP)
    model = manifest["champion"].partition("-")[2]
    with (
        open_clip_store(cache_dir=pipeline.settings.cache_dir) as store,
        open_clip_store(str(folder / DUMP)) as dump,
    ):
        if store.count(model_version=model) == 0:
            store.put(dump.find(model_version=model))
    _move(folder / INDEX, index_folder(pipeline.settings.cache_dir, model))
    state = folder / STATE
    history = (state / MODELS / HISTORY).read_bytes()
    (state / MODELS / HISTORY).unlink()
    _move(state, runs)
    pipeline.registry.take_history(history)  # last: until then it is all done again
    shutil.rmtree(folder)
    return pipeline.registry.champion


def _adopt(pipeline: Pipeline, url: str, manifest: dict) -> Version:
    folder = _scratch(pipeline)
    _fetch(url, manifest, folder, lambda name: "/" not in name and name != DUMP)
    facts = {k: v for k, v in manifest["facts"].items() if k not in ("run", "added")}
    version = pipeline.registry.add(folder, facts)
    os.replace(folder / "profile.json", profile_path(pipeline))
    pipeline.registry.promote(version, f"published as {manifest['champion']} in {url}")
    shutil.rmtree(folder)
    return version


def _scratch(pipeline: Pipeline) -> Path:
    folder = Path(pipeline.settings.cache_dir, SCRATCH)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _fetch(url: str, manifest: dict, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Writes the wanted files of a release below a folder, each held against its sha256."""
    for name, file in manifest["files"].items():
        if not wanted(name):
            continue
        target, path = content_url(url, name, file["sha256"]), folder / name
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise S3DamagedError(DAMAGED, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        get_file(head(target), path)
        if digest_file(path).sha256 != file["sha256"]:
            raise S3DamagedError(DAMAGED, target)


def _move(source: Path, target: Path) -> None:
    """Each file to the same place below another folder."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
