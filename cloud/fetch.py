"""Fetch: the run folder of a run on AWS, brought here; what is here already is not sent again."""

import os
from pathlib import Path

from cloud.local_copy import digest_file, progress_bar
from cloud.run_record import Latest, RecordError, RunRecord
from cloud.s3 import DAMAGED, S3DamagedError, S3ObjectError, get_file, head
from cloud.shared_store import Copied

TRIES = 5  # for a content that arrives damaged, and for a run that goes on meanwhile


def fetch_run(record: RunRecord, folder: Path) -> Copied | None:
    """What of the run folder was fetched to `folder`; None where nothing is on S3 yet.

    Each file appears whole, held against its sha256, and those of one latest.json; a fetch that
    broke off goes on at the file where it did.
    """
    for tries_left in reversed(range(TRIES)):
        latest = record.read_latest()
        if latest is None:
            return None
        try:
            return _fetch(record, latest, folder)
        except S3ObjectError:  # the run goes on: what was named a moment ago is replaced
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _fetch(record: RunRecord, latest: Latest, folder: Path) -> Copied:
    wanted = {}
    for name, file in latest.files.items():
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise RecordError(f"{record.url}/latest.json names {name!r}, no file of a run")
        path = folder / name
        if not (path.is_file() and digest_file(path).sha256 == file["sha256"]):
            wanted[path] = (f"{record.files_url}/{file['sha256']}/{name}", file)
    total = sum(file["size_bytes"] for _, file in wanted.values())
    with progress_bar("fetch", total) as on_bytes:
        for path, (url, file) in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            try:
                for _ in range(TRIES):
                    get_file(head(url), partial, on_bytes)
                    if digest_file(partial).sha256 == file["sha256"]:
                        break
                    on_bytes(-file["size_bytes"])
                else:
                    raise S3DamagedError(DAMAGED, url)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
    return Copied(len(wanted), total)
