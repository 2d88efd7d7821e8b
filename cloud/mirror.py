"""Mirror: the run folder of an attempt on S3, whole at each moment, and back from there."""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloud.local_copy import Digests, digest_file
from cloud.run_record import Latest, RecordError, RunRecord, utc_now
from cloud.s3 import (
    DAMAGED,
    PART_BYTES,
    S3DamagedError,
    S3Error,
    S3Object,
    delete,
    get_file,
    head,
    list_objects,
    put_file,
    write_bytes,
)
from cloud.shared_store import arrived_whole

CONFIG, STATE = "config.json", "last.ckpt"  # without the one it is no run; the other is to go on
TRIES = 3  # for a content that is replaced while it is read, or arrives damaged


class SupersededError(Exception):
    """Somebody wrote the end of this attempt: another one may be at work in its place."""


class Mirror:
    """Sends what is new in a run folder; threads may share one.

    Each content is an object of its own name, held against what is here before latest.json names
    it. So whoever reads latest.json finds all it names, whenever the instance ends. Contents that
    latest.json no longer names are deleted one version later, for those who are reading them.
    """

    def __init__(self, record: RunRecord, attempt: int, scratch: Path):
        self._record = record
        self._attempt = attempt
        self._scratch = scratch  # a folder on the disk of the run folders
        self._lock = threading.Lock()
        self._known: dict[str, tuple[list[int], dict[str, Any]]] = {}  # stamp and file, by name
        self._latest: Latest | None = None  # as it is on S3
        self._former: set[str] = set()  # contents that the one before named
        self._has_read = False
        self._may_delete = True
        self.note: str | None = None  # what went wrong and does no harm

    def bring_back(self, folder: Path) -> bool:
        """Writes the run folder as the last attempt left it to `folder`; False where there is none.

        The folder appears whole or not at all. Raises S3Error, and RecordError for what can't be
        the name of a file there.
        """
        latest = self._read_latest()
        if latest is None:
            return False
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name, file in latest.files.items():
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise RecordError(
                    f"{self._record.url}/latest.json names {name!r}, no file of a run"
                )
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(name, file, path)
        if folder.exists():  # from an earlier try of this attempt
            shutil.rmtree(folder)
        os.rename(partial, folder)
        return True

    def send(self, folder: Path) -> bool:
        """Brings S3 in step with the folder; whether there was something new.

        Raises S3Error where S3 refuses, and SupersededError where this attempt counts as ended.
        """
        with self._lock:
            self._read_latest()
            if not (folder / CONFIG).exists():
                return False
            self._scratch.mkdir(parents=True, exist_ok=True)
            files = {}
            # The state first: what else is newer than it is as if the training was killed later.
            for name in sorted(_names(folder), key=lambda name: (name != STATE, name)):
                file = self._send_file(folder / name, name)
                if file is not None:
                    files[name] = file
            if self._latest is not None and files == self._latest.files:
                return False
            if self._record.read_end(self._attempt) is not None:
                raise SupersededError(f"attempt {self._attempt} was given up from outside")
            latest = Latest(files, self._attempt, utc_now())
            self._record.write_latest(latest)
            current = self._urls(self._latest)
            self._latest = latest
            self._delete(self._former - current - self._urls(latest))
            self._former = current
            return True

    def sweep(self) -> None:
        """Deletes contents that latest.json does not name, as attempts that were killed leave."""
        with self._lock:
            named = self._urls(self._read_latest())
            there = {item.url for item in list_objects(self._record.files_url)}
            self._delete(there - named)

    def _read_latest(self) -> Latest | None:
        if not self._has_read:
            self._latest = self._record.read_latest()
            self._has_read = True
        return self._latest

    def _send_file(self, path: Path, name: str) -> dict[str, Any] | None:
        """The file as latest.json names it; as it was before, or None, where it can't be read."""
        before = self._known.get(name)
        for _ in range(TRIES):
            try:
                stamp = _stamp(path)
                if before is None or before[0] != stamp:
                    self._known[name] = (stamp, self._send_content(path, name))
                return self._known[name][1]
            except FileNotFoundError:
                if path.exists():  # so it is another one that is not there
                    raise
                return None
            except S3DamagedError as error:
                self.note = f"{name}: {error.strerror}"
        return before[1] if before else None

    def _send_content(self, path: Path, name: str) -> dict[str, Any]:
        with _held_still(path, self._scratch) as (content, digests):
            file = {"sha256": digests.sha256, "size_bytes": digests.size_bytes}
            url = self._url(name, file)
            if url in self._urls(self._latest) | self._former:
                return file
            if isinstance(content, bytes):
                write_bytes(url, content)
            else:
                put_file(content, url)
            if arrived_whole(head(url), digests, self._scratch / "back"):
                return file
        raise S3DamagedError(DAMAGED, url)

    def _fetch(self, name: str, file: dict[str, Any], path: Path) -> None:
        url = self._url(name, file)
        for _ in range(TRIES):
            get_file(head(url), path)
            if digest_file(path).sha256 == file["sha256"]:
                return
        raise S3DamagedError(DAMAGED, url)

    def _delete(self, urls: set[str]) -> None:
        if not urls or not self._may_delete:
            return
        try:
            delete([S3Object(url, 0, "", 0.0) for url in sorted(urls)])
        except S3Error as error:  # they cost a little, and nothing is lost
            self._may_delete = False
            self.note = f"old contents stay on S3: {error.strerror}"

    def _urls(self, latest: Latest | None) -> set[str]:
        return {self._url(name, file) for name, file in latest.files.items()} if latest else set()

    def _url(self, name: str, file: dict[str, Any]) -> str:
        return f"{self._record.files_url}/{file['sha256']}/{name}"


def _names(folder: Path) -> list[str]:
    """Of all files below, without hidden ones: those are being written."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("[!.]*")
        if path.is_file() and not path.is_symlink()
    ]


def _link(path: Path, link: Path) -> None:
    """Makes a second link to the content of `path`, which may be replaced at any moment.

    Linux says that there is no such file where it is replaced between two steps of os.link().
    """
    while True:
        try:
            os.link(path, link)
        except FileNotFoundError:
            if not path.exists():
                raise
        else:
            return


@contextlib.contextmanager
def _held_still(path: Path, scratch: Path) -> Iterator[tuple[bytes | Path, Digests]]:
    """The content at this moment, whatever is written to `path` meanwhile, and its digests.

    A small one in memory, as others are appended to. A large one as a second link, since it is
    replaced and never written again; that takes no room, so a full disk does not hinder it.
    """
    with open(path, "rb") as file:
        content = file.read(PART_BYTES)
    if len(content) < PART_BYTES:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        yield content, Digests(hashlib.sha256(content).hexdigest(), md5, len(content))
        return
    link = scratch / f"{os.getpid()}-{threading.get_ident()}"
    link.unlink(missing_ok=True)
    _link(path, link)
    try:
        yield link, digest_file(link)
    finally:
        link.unlink(missing_ok=True)


def _stamp(path: Path) -> list[int]:
    status = path.stat()  # without the ctime, which a link changes
    return [status.st_size, status.st_mtime_ns, status.st_ino]
