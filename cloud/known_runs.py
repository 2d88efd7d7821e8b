"""Known runs: those on AWS that were begun from this folder, so that later verbs need no bucket."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from cloud.run_record import RUN_NAME, RecordError, check_run_name, parse

FOLDER = Path("runs", "aws")


@dataclass(frozen=True)
class KnownRun:
    run: str
    bucket: str
    region: str
    created: str


def remember_run(root: Path, known: KnownRun) -> None:
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{known.run}.partial"
    partial.write_text(json.dumps(asdict(known), indent=1))
    os.replace(partial, folder / f"{known.run}.json")


def known_runs(root: Path) -> list[KnownRun]:
    """The newest first; a file that is not one of ours is left out."""
    paths = sorted((root / FOLDER).glob("*.json"), reverse=True)
    return [_read(path) for path in paths if re.fullmatch(RUN_NAME, path.stem)]


def find_run(root: Path, run: str, bucket: str | None, region: str | None) -> KnownRun:
    """Raises RecordError for a run that was begun elsewhere, where no bucket is given."""
    path = root / FOLDER / f"{check_run_name(run)}.json"
    if path.exists():
        known = _read(path)
        return KnownRun(run, bucket or known.bucket, region or known.region, known.created)
    if not bucket:
        raise RecordError(
            f"{run} was not begun from this folder: pass --bucket BUCKET, or see those that were "
            "with ./run_training.sh status"
        )
    from cloud.aws import bucket_region

    return KnownRun(run, bucket, region or bucket_region(bucket), run[:10])


def _read(path: Path) -> KnownRun:
    try:
        return parse(KnownRun, json.loads(path.read_text()), str(path))
    except ValueError as error:
        raise RecordError(f"{path} is damaged ({error}): delete it, and pass --bucket") from error
