"""Upload: the videos of a folder as objects below s3://BUCKET/data, as `aws s3 sync` puts them."""

from dataclasses import dataclass
from pathlib import Path

from cloud.aws import CloudError
from cloud.local_copy import progress_bar
from cloud.s3 import list_objects, put_files

IGNORED = ("README.md",)


@dataclass(frozen=True)
class Uploaded:
    files: int
    size_bytes: int
    unchanged: int


def upload_folder(folder: Path, bucket: str) -> Uploaded:
    """What was sent: files that are not there, have another size there, or are newer here.

    Nothing is deleted there. Several files travel at the same time, in parts; each appears whole,
    so the same command goes on where one broke off. Raises CloudError for a folder without files.
    """
    url = f"s3://{bucket}/data"
    if not folder.is_dir():
        raise CloudError(f"{folder} is no folder: ./run_training.sh upload {bucket} DIR")
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_hidden(path.relative_to(folder))
    }
    if not paths:
        raise CloudError(f"{folder} has no file: put recordings into {folder}/ads and so on")
    there = {item.url: item for item in list_objects(url)}

    def is_new(name: str) -> bool:
        item, status = there.get(f"{url}/{name}"), paths[name].stat()
        return (
            item is None
            or item.size_bytes != status.st_size
            or item.modified_seconds < int(status.st_mtime)
        )

    new = {path: f"{url}/{name}" for name, path in paths.items() if is_new(name)}
    total = sum(path.stat().st_size for path in new)
    with progress_bar("upload", total) as on_bytes:
        put_files(new, on_bytes)
    return Uploaded(len(new), total, len(paths) - len(new))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.as_posix() in IGNORED
