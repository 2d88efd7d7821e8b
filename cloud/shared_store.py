"""Shared store: the finished files of a folder as objects on S3, put and got by many machines.

    s3://bucket/store/
        manifest.json                       {"files": {name: {"sha256", "size_bytes"}}}
        <sha256>/frames-0f3a9c21-00000.npy  contents, never written again
        <sha256>/index-0f3a9c21.jsonl

An object is named by its content, so a put overwrites nothing that somebody else may be reading,
and sends nothing twice. The manifest is the truth; it is written last, and only if it is still
the one that was read. An interrupted put leaves the store as it was before.

In its own folder each machine calls its files `...-main...`; there, a random name of the machine
stands for `main`. So machines that know nothing of each other can fill one store.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cloud.local_copy import Digests, LocalCopy, StoredFile, digest_file, progress_bar
from cloud.s3 import (
    DAMAGED,
    S3DamagedError,
    S3Error,
    S3Object,
    S3ObjectError,
    delete,
    get_file,
    list_objects,
    put_file,
    read_json,
    split_url,
    update_json,
)

MANIFEST = "manifest.json"
ATTEMPTS = 5  # for a content that arrives damaged, and for a store that changes meanwhile
ORPHAN_SECONDS = 24 * 3600  # an object younger than this may be part of a put that is under way


@dataclass(frozen=True)
class Copied:
    """What was sent or fetched; what was there already does not count."""

    files: int
    size_bytes: int


class SharedStores:
    """Stores below one S3 address, by the names of their folders, and small files beside them."""

    def __init__(self, url: str):
        self.name = url.rstrip("/")
        split_url(self.name)

    def get(self, folder: Path) -> None:
        """Brings a folder here in step, and says so."""
        _say("got", get_store(f"{self.name}/{folder.name}", folder), self.name)

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Brings the store there in step, and says so."""
        _say("put", put_store(folder, names, f"{self.name}/{folder.name}"), self.name)

    def update(self, name: str, change: Callable[[dict], dict]) -> dict:
        """Changes a small JSON file, as `update_json` does."""
        return update_json(f"{self.name}/{name}", change)


def put_store(folder: Path, names: Sequence[str], url: str) -> Copied:
    """Brings the store at `url` in step with the files `names` of `folder`.

    What others put there stays, and what is not here any more. Each content is read once here, and
    the ETag that S3 makes of what arrived is held against our own; where S3 makes no such ETag (KMS
    keys), the object is read back, which costs a download. The caller sees to it that nobody
    writes the files. Raises S3Error for a file that others changed too since it was got.
    """
    _refuse_names(names, url)
    url = url.rstrip("/")
    local = LocalCopy(folder, url)
    mine = local.files([local.name_there(name) for name in names])
    changed = {name: file for name, file in mine.items() if file != local.base.get(name)}
    manifest = _parse(read_json(f"{url}/{MANIFEST}")[0], url)
    _merge(manifest, changed, local, url)  # refuses a conflict before anything is sent
    sent = _send([name for name in changed if manifest.get(name) != mine[name]], url, local)

    def change(theirs: dict) -> dict:
        merged = _merge(_parse(theirs, url), changed, local, url)
        return {"files": {name: asdict(file) for name, file in merged.items()}}

    manifest = _parse(update_json(f"{url}/{MANIFEST}", change), url)
    local.keep_base(changed)
    _delete_orphans(url, manifest)
    return sent


def get_store(url: str, folder: Path) -> Copied:
    """Brings `folder` in step with the store at `url`; (0, 0) where there is no store yet.

    Each file is fetched beside its place, held against its sha256 and then moved there, those
    that describe others (all but .npy) last; what is complete is not fetched again. A file that
    was changed here and not there stays. The caller sees to it that nobody uses the folder.
    Raises S3Error where a file was changed here and there.
    """
    url = url.rstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.partial*"):  # by a fetch that was killed
        left.unlink()
    local = LocalCopy(folder, url)
    attempts_left = ATTEMPTS
    while True:
        manifest = _parse(read_json(f"{url}/{MANIFEST}")[0], url)
        try:
            copied = _fetch(manifest, _outdated(manifest, local, url), local, url)
            break
        except S3ObjectError:  # somebody put a newer manifest, and old contents went
            attempts_left -= 1
            if not attempts_left:
                raise
    local.keep_base(manifest)
    return copied


def _say(what: str, copied: Copied, url: str) -> None:
    size = f"{copied.size_bytes / 1e9:.2f} GB in {copied.files} files"
    _print(f"{what:<11} {size if copied.files else 'nothing new'} · {url}")


def _print(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)  # a bar may be there


def _parse(manifest: dict, url: str) -> dict[str, StoredFile]:
    """The files by name."""
    try:
        files = {name: StoredFile(**file) for name, file in manifest.get("files", {}).items()}
    except (TypeError, AttributeError) as error:
        raise S3Error(
            "is not a manifest of ours: choose another --store, or delete this one",
            f"{url}/{MANIFEST}",
        ) from error
    _refuse_names(files, url)
    return files


def _refuse_names(names: Sequence[str], url: str) -> None:
    for name in names:
        if name != Path(name).name or name.startswith(".") or name == MANIFEST:
            raise S3Error(f"{name!r} can't be the name of a file in a store", url)


def _merge(
    theirs: dict[str, StoredFile], changed: dict[str, StoredFile], local: LocalCopy, url: str
) -> dict[str, StoredFile]:
    """The next manifest, from that on S3 and what changed here since both were in step."""
    for name in changed.keys() & theirs.keys():
        if theirs[name] not in (changed[name], local.base.get(name)):
            raise _conflict(name, local, url)
    return {**theirs, **changed}


def _send(names: list[str], url: str, local: LocalCopy) -> Copied:
    """Sends the contents that S3 does not hold, until what arrived is what is here."""
    sent_files = sent_bytes = 0
    waiting = list(names)
    there = {item.url: item for item in list_objects(url)}
    for attempt in range(ATTEMPTS):
        waiting = [name for name in waiting if not _has_arrived(name, url, there, local)]
        if not waiting:
            return Copied(sent_files, sent_bytes)
        if attempt:
            _print(f"{waiting[0]} arrived damaged on S3: sent again")
        total = sum(local.file(name).size_bytes for name in waiting)
        with progress_bar("send the store", total) as on_bytes:
            for name in waiting:
                with contextlib.suppress(S3DamagedError):  # S3 refused it, so it is not there
                    put_file(local.path(name), _content_url(url, name, local.file(name)), on_bytes)
        sent_files, sent_bytes = sent_files + len(waiting), sent_bytes + total
        there = {item.url: item for item in list_objects(url)}
    raise S3DamagedError(DAMAGED, _content_url(url, waiting[0], local.file(waiting[0])))


def arrived_whole(item: S3Object, digests: Digests, scratch: Path) -> bool:
    """Whether an object holds the content that has these digests.

    Where its ETag can't tell, it is fetched to `scratch`, which is deleted again.
    """
    if item.size_bytes != digests.size_bytes:
        return False
    if item.etag.strip('"') == digests.etag:
        return True
    try:
        get_file(item, scratch)
        return digest_file(scratch).sha256 == digests.sha256
    except S3DamagedError:
        return False
    finally:
        scratch.unlink(missing_ok=True)


def _has_arrived(name: str, url: str, there: dict[str, S3Object], local: LocalCopy) -> bool:
    item = there.get(_content_url(url, name, local.file(name)))
    scratch = local.folder / f".{name}.partial"
    return item is not None and arrived_whole(item, local.digests(name), scratch)


def _outdated(manifest: dict[str, StoredFile], local: LocalCopy, url: str) -> list[str]:
    """Names to fetch, those that describe others last."""
    here = local.files([name for name in manifest if local.path(name).exists()])
    names = []
    for name, theirs in manifest.items():
        mine = here.get(name)
        if mine == theirs or (mine and theirs == local.base.get(name)):
            continue
        if mine and mine != local.base.get(name):
            raise _conflict(name, local, url)
        names.append(name)
    return sorted(names, key=lambda name: (not name.endswith(".npy"), name))


def _fetch(manifest: dict[str, StoredFile], names: list[str], local: LocalCopy, url: str) -> Copied:
    total = sum(manifest[name].size_bytes for name in names)
    free = shutil.disk_usage(local.folder).free
    if total > free:
        raise S3Error(
            f"is {total / 1e9:.1f} GB more than is here, and {local.folder} has room for "
            f"{free / 1e9:.1f}: make room, or pass another --cache-dir",
            url,
        )
    there = {item.url: item for item in list_objects(url)} if names else {}
    with progress_bar("fetch the store", total) as on_bytes:
        for name in names:
            content_url = _content_url(url, name, manifest[name])
            if content_url not in there:
                raise S3ObjectError("is named by the manifest and is not there", content_url)
            _fetch_file(there[content_url], name, manifest[name], local, on_bytes)
    return Copied(len(names), total)


def _fetch_file(
    item: S3Object,
    name: str,
    file: StoredFile,
    local: LocalCopy,
    on_bytes: Callable[[int], None],
) -> None:
    partial = local.folder / f".{name}.partial"
    try:
        for _ in range(ATTEMPTS):
            get_file(item, partial, on_bytes)
            digests = digest_file(partial)
            if digests.sha256 == file.sha256:
                os.replace(partial, local.path(name))
                local.remember(name, digests)
                local.keep_base({name: file})
                return
            on_bytes(-file.size_bytes)
    finally:
        partial.unlink(missing_ok=True)
    raise S3DamagedError(f"{DAMAGED}, or delete it and put it anew", item.url)


def _delete_orphans(url: str, manifest: dict[str, StoredFile]) -> None:
    """Deletes contents that no manifest names, once no put that is under way can want them."""
    named = {_content_url(url, name, file) for name, file in manifest.items()}
    orphans = [
        item
        for item in list_objects(url)
        if item.url not in named
        and item.url.count("/") == url.count("/") + 2
        and len(item.url.split("/")[-2]) == 64
        and item.modified_seconds < time.time() - ORPHAN_SECONDS
    ]
    try:
        delete(orphans)
    except S3Error as error:  # the store is whole all the same; an instance may not delete
        size = sum(item.size_bytes for item in orphans) / 1e9
        _print(f"{url}: {size:.1f} GB of old contents stay: {error.strerror}")


def _conflict(name: str, local: LocalCopy, url: str) -> S3Error:
    return S3Error(
        f"{name} was changed by another machine too, as where a cache folder was copied: "
        f"remove {local.folder} to start again from the store",
        url,
    )


def _content_url(url: str, name: str, file: StoredFile) -> str:
    return f"{url}/{file.sha256}/{name}"
