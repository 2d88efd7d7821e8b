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

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cloud.s3 import (
    DAMAGED,
    PART_BYTES,
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
LOCAL_STATE = ".shared.json"  # in the folder: digests, and the files that were last in step
LOCAL_WRITER = "main"
ATTEMPTS = 5  # for a content that arrives damaged, and for a store that changes meanwhile
ORPHAN_SECONDS = 24 * 3600  # an object younger than this may be part of a put that is under way


@dataclass(frozen=True)
class StoredFile:
    """The content of a file, as the manifest names it."""

    sha256: str
    size_bytes: int


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

    Files that other machines put there stay. Each content is read once here, and the ETag that S3
    makes of what arrived is held against our own; where S3 makes no such ETag (KMS keys), the
    object is read back, which costs a download. The caller sees to it that nobody writes the files.
    Raises S3Error where another machine changed a file of the same name since it was got.
    """
    _refuse_names(names, url)
    url = url.rstrip("/")
    state = _LocalState(folder, url)
    mine = state.files([state.name_there(name) for name in names])
    manifest = _parse(read_json(f"{url}/{MANIFEST}")[0], url)
    _merge(manifest, mine, state, url)  # refuses a conflict before anything is sent
    sent = _send([name for name in mine if manifest.get(name) != mine[name]], url, state)

    def change(theirs: dict) -> dict:
        merged = _merge(_parse(theirs, url), mine, state, url)
        return {"files": {name: asdict(file) for name, file in merged.items()}}

    manifest = _parse(update_json(f"{url}/{MANIFEST}", change), url)
    state.base = mine  # what others put there is no business of this folder, until it is got
    state.save()
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
    state = _LocalState(folder, url)
    attempts_left = ATTEMPTS
    while True:
        manifest = _parse(read_json(f"{url}/{MANIFEST}")[0], url)
        try:
            copied = _fetch(manifest, _outdated(manifest, state, url), state, url)
            break
        except S3ObjectError:  # somebody put a newer manifest, and old contents went
            attempts_left -= 1
            if not attempts_left:
                raise
    state.base = manifest
    state.save()
    return copied


def _say(what: str, copied: Copied, url: str) -> None:
    size = f"{copied.size_bytes / 1e9:.2f} GB in {copied.files} files"
    print(f"{what:<11} {size if copied.files else 'nothing new'} · {url}")


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
    theirs: dict[str, StoredFile], mine: dict[str, StoredFile], state: "_LocalState", url: str
) -> dict[str, StoredFile]:
    """The next manifest, from that on S3, the files here, and what both were when last in step."""
    for name in mine.keys() & theirs.keys():
        if theirs[name] not in (mine[name], state.base.get(name)):
            raise S3Error(
                f"{name} was changed by another machine too, as where a cache folder was copied: "
                f"remove {state.folder} to start again from the store",
                url,
            )
    removed = {
        name
        for name, file in state.base.items()
        if file == theirs.get(name) and not state.path(name).exists()
    }
    return {name: file for name, file in {**theirs, **mine}.items() if name not in removed}


def _send(names: list[str], url: str, state: "_LocalState") -> Copied:
    """Sends the contents that S3 does not hold, until what arrived is what is here."""
    sent_files = sent_bytes = 0
    waiting = list(names)
    there = {item.url: item for item in list_objects(url)}
    for attempt in range(ATTEMPTS):
        waiting = [name for name in waiting if not _has_arrived(name, url, there, state)]
        if not waiting:
            return Copied(sent_files, sent_bytes)
        if attempt:
            print(f"{waiting[0]} arrived damaged on S3: sent again")
        total = sum(state.file(name).size_bytes for name in waiting)
        with _bar("send the store", total) as on_bytes:
            for name in waiting:
                with contextlib.suppress(S3DamagedError):  # S3 refused it, so it is not there
                    put_file(state.path(name), _content_url(url, name, state.file(name)), on_bytes)
        sent_files, sent_bytes = sent_files + len(waiting), sent_bytes + total
        there = {item.url: item for item in list_objects(url)}
    raise S3DamagedError(DAMAGED, _content_url(url, waiting[0], state.file(waiting[0])))


def _has_arrived(name: str, url: str, there: dict[str, S3Object], state: "_LocalState") -> bool:
    file = state.file(name)
    item = there.get(_content_url(url, name, file))
    if item is None or item.size_bytes != file.size_bytes:
        return False
    if item.etag.strip('"') == state.etag(name):
        return True
    copy = state.folder / f".{name}.partial"  # the ETag may be no MD5: only the content can tell
    try:
        get_file(item, copy)
        return _digests(copy).sha256 == file.sha256
    except S3DamagedError:
        return False
    finally:
        copy.unlink(missing_ok=True)


def _outdated(manifest: dict[str, StoredFile], state: "_LocalState", url: str) -> list[str]:
    """Names to fetch, those that describe others last."""
    here = state.files([name for name in manifest if state.path(name).exists()])
    names = []
    for name, theirs in manifest.items():
        mine = here.get(name)
        if mine == theirs or (mine and theirs == state.base.get(name)):
            continue
        if mine and mine != state.base.get(name):
            raise S3Error(
                f"{name} was changed by another machine too, as where a cache folder was copied: "
                f"remove {state.folder} to start again from the store",
                url,
            )
        names.append(name)
    return sorted(names, key=lambda name: (not name.endswith(".npy"), name))


def _fetch(
    manifest: dict[str, StoredFile], names: list[str], state: "_LocalState", url: str
) -> Copied:
    total = sum(manifest[name].size_bytes for name in names)
    free = shutil.disk_usage(state.folder).free
    if total > free:
        raise S3Error(
            f"is {total / 1e9:.1f} GB more than is here, and {state.folder} has room for "
            f"{free / 1e9:.1f}: make room, or pass another --cache-dir",
            url,
        )
    there = {item.url: item for item in list_objects(url)} if names else {}
    with _bar("fetch the store", total) as on_bytes:
        for name in names:
            content_url = _content_url(url, name, manifest[name])
            if content_url not in there:
                raise S3ObjectError("is named by the manifest and is not there", content_url)
            _fetch_file(there[content_url], name, manifest[name], state, on_bytes)
    return Copied(len(names), total)


def _fetch_file(
    item: S3Object,
    name: str,
    file: StoredFile,
    state: "_LocalState",
    on_bytes: Callable[[int], None],
) -> None:
    partial = state.folder / f".{name}.partial"
    try:
        for _ in range(ATTEMPTS):
            get_file(item, partial, on_bytes)
            digests = _digests(partial)
            if digests.sha256 == file.sha256:
                os.replace(partial, state.path(name))
                state.remember(name, digests)
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
        print(f"{url}: {size:.1f} GB of old contents stay: {error.strerror}")


def _content_url(url: str, name: str, file: StoredFile) -> str:
    return f"{url}/{file.sha256}/{name}"


@dataclass(frozen=True)
class _Digests:
    sha256: str
    etag: str  # as S3 makes it of a content that came in parts of PART_BYTES
    size_bytes: int


class _LocalState:
    """What is known of the files of a folder, by their names there; kept in the folder."""

    def __init__(self, folder: Path, url: str):
        self.folder = folder
        self._url = url
        self._machine = uuid.uuid4().hex[:8]
        self._known: dict[str, tuple[list[int], _Digests]] = {}
        self._bases: dict[str, dict[str, StoredFile]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            state = json.loads((folder / LOCAL_STATE).read_bytes())
            self._machine = state["machine"]
            self._known = {
                name: (stamp, _Digests(**digests))
                for name, (stamp, digests) in state["known"].items()
            }
            self._bases = {
                base: {name: StoredFile(**file) for name, file in files.items()}
                for base, files in state["bases"].items()
            }

    @property
    def base(self) -> dict[str, StoredFile]:
        """The files at `url` that the folder was last in step with."""
        return self._bases.get(self._url, {})

    @base.setter
    def base(self, files: dict[str, StoredFile]) -> None:
        self._bases[self._url] = files

    def name_there(self, name: str) -> str:
        return _rename(name, LOCAL_WRITER, self._machine)

    def path(self, name: str) -> Path:
        """The file here of a name there."""
        return self.folder / _rename(name, self._machine, LOCAL_WRITER)

    def files(self, names: Sequence[str]) -> dict[str, StoredFile]:
        """Reads the files that have changed, with a bar; all of them must be there."""
        stamps = {name: self._stamp(name) for name in names}
        new = [name for name in names if self._known.get(name, [None])[0] != stamps[name]]
        total = sum(stamps[name][0] for name in new)
        pool = concurrent.futures.ThreadPoolExecutor(2)  # hashlib lets go of the GIL
        with _bar("check the store", total) as on_bytes, pool:
            done = pool.map(lambda name: _digests(self.path(name), on_bytes), new)
            for name, digests in zip(new, done, strict=True):
                self._known[name] = (stamps[name], digests)
        self.save()
        return {name: self.file(name) for name in names}

    def file(self, name: str) -> StoredFile:
        digests = self._known[name][1]
        return StoredFile(digests.sha256, digests.size_bytes)

    def etag(self, name: str) -> str:
        return self._known[name][1].etag

    def remember(self, name: str, digests: _Digests) -> None:
        self._known[name] = (self._stamp(name), digests)
        self.save()

    def save(self) -> None:
        known = {name: (stamp, asdict(digests)) for name, (stamp, digests) in self._known.items()}
        bases = {
            base: {name: asdict(file) for name, file in files.items()}
            for base, files in self._bases.items()
        }
        state = {"machine": self._machine, "known": known, "bases": bases}
        partial = self.folder / f"{LOCAL_STATE}.partial"
        partial.write_text(json.dumps(state))
        os.replace(partial, self.folder / LOCAL_STATE)

    def _stamp(self, name: str) -> list[int]:
        status = self.path(name).stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _rename(name: str, old: str, new: str) -> str:
    """`frames-main-00000.npy` and `index-main.jsonl` with another writer."""
    return re.sub(rf"^(\w+)-{re.escape(old)}(-\d+)?\.", rf"\1-{new}\2.", name)


def _digests(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> _Digests:
    whole, parts, size_bytes = hashlib.sha256(), [], 0
    with open(path, "rb") as file:
        while block := file.read(PART_BYTES):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False))
            size_bytes += len(block)
            on_bytes(len(block))
    if size_bytes < PART_BYTES:
        etag = (parts[0] if parts else hashlib.md5(usedforsecurity=False)).hexdigest()
    else:
        joined = b"".join(part.digest() for part in parts)
        etag = f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
    return _Digests(whole.hexdigest(), etag, size_bytes)


@contextlib.contextmanager
def _bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar for work of several threads."""
    from tqdm import tqdm

    lock = threading.Lock()
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True, leave=False, delay=1) as bar:

        def on_bytes(count: int) -> None:
            with lock:
                bar.update(count)

        yield on_bytes
