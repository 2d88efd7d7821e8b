"""Snapshot: the code of this folder as one archive, the same bytes for the same files."""

import fnmatch
import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from cloud.aws import CloudError

MOST_BYTES = 50_000_000  # packed; the code itself is below one
LEFT_OUT = {".git", ".venv", ".pipenv", "__pycache__", "cache", "data", "node_modules", "runs"}
SECRETS = (".env", ".env.*", "*.key", "*.pem", "*.p12", "id_*", ".aws", ".netrc", "credentials*")


@dataclass(frozen=True)
class Snapshot:
    content: bytes  # of a .tar.gz
    sha256: str
    names: tuple[str, ...]  # relative to the folder, sorted
    withheld: tuple[str, ...]  # what looks like a secret


def take_snapshot(folder: Path) -> Snapshot:
    """What git tracks here, and what it neither tracks nor ignores; without git, all but our own.

    Videos, caches, environments and what looks like a secret stay here. Raises CloudError where
    more is left than can be code.
    """
    names = sorted(name for name in _list_git(folder) or _list_all(folder) if _is_ours(name))
    withheld = tuple(name for name in names if _is_secret(name))
    names = tuple(name for name in names if name not in withheld and _is_within(folder, name))
    content = _pack(folder, names)
    if len(content) > MOST_BYTES:
        largest = max(names, key=lambda name: (folder / name).lstat().st_size)
        raise CloudError(
            f"the code in {folder} is {len(content) / 1e6:.0f} MB packed, {MOST_BYTES / 1e6:.0f} "
            f"are allowed: name what is no code in .gitignore, {largest} is the largest file"
        )
    return Snapshot(content, hashlib.sha256(content).hexdigest(), names, withheld)


def _list_git(folder: Path) -> list[str]:
    """[] where the folder is no clone, or git is not there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [os.fsdecode(name) for name in set(done.stdout.split(b"\0")) if name]


def _list_all(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if name not in LEFT_OUT and name[0] != "."]
        names += [(here / name).as_posix() for name in files]
    return names


def _is_ours(name: str) -> bool:
    return not set(name.split("/")) & (LEFT_OUT - {"data"}) and not name.startswith("data/")


def _is_secret(name: str) -> bool:
    return any(fnmatch.fnmatch(part, p) for part in name.split("/") for p in SECRETS)


def _is_within(folder: Path, name: str) -> bool:
    """Whether it is there, and no link to what is elsewhere."""
    path = folder / name
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _pack(folder: Path, names: tuple[str, ...]) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            path = folder / name
            content = path.read_bytes()  # of what a link leads to, too
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
