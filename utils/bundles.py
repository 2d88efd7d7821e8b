"""Bundles: files that belong together in a folder, told from a mixture or damaged ones."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from utils.files import write_whole


def write_bundle(index: Path, files: Mapping[str, bytes], info: Mapping) -> None:
    """Writes files, and `index` beside them, which takes its place last: JSON of `info` and what
    the files' contents are."""
    index.parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(index.parent / name, content)
    digests = {name: _digest(content) for name, content in files.items()}
    write_whole(index, json.dumps({**info, "files": digests}, indent=1).encode() + b"\n")


def read_bundle(index: Path) -> tuple[dict[str, bytes], dict] | None:
    """The files and the info; None where anything is missing, damaged, or of another bundle."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        info = json.loads(index.read_bytes())
        digests = info.pop("files")
        files = {name: (index.parent / name).read_bytes() for name in digests}
        if all(_digest(content) == digests[name] for name, content in files.items()):
            return files, info
    return None


def forget_bundles(folder: Path, index: str, *, most: int) -> None:
    """Deletes all but the newest bundles, each in a folder of its own in this one."""
    indices = sorted(folder.glob(f"*/{index}"), key=lambda path: path.stat().st_mtime_ns)
    for old in indices[:-most]:
        shutil.rmtree(old.parent, ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
