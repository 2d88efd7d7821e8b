"""Rejects: recordings that can't be used, remembered by content so that none is tried again."""

import csv
import io
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from utils.files import write_whole

MEMORY = "rejected.json"  # {key: reason}
LIST = "rejected.csv"  # of the last run, for people


class Rejects:
    """Reasons by content key, kept in a file of the store's folder, so per FeatureSpec."""

    def __init__(self, folder: Path):
        self._path = folder / MEMORY
        try:
            self._reasons: dict[str, str] = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):  # a damaged one costs trying the files again
            self._reasons = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def get(self, key: str | None) -> str | None:
        return self._reasons.get(key)

    def add(self, key: str, reason: str) -> None:
        self._reasons[key] = reason
        self._save()

    def reasons(self) -> dict[str, str]:
        return dict(self._reasons)

    def learn(self, reasons: dict[str, str]) -> None:
        """Adds what another machine found."""
        if not reasons.keys() <= self._reasons.keys():
            self._reasons = {**reasons, **self._reasons}
            self._save()

    def keep(self, keys: Collection[str]) -> None:
        """Forgets all but these."""
        kept = {key: reason for key, reason in self._reasons.items() if key in keys}
        if len(kept) < len(self._reasons):
            self._reasons = kept
            self._save()

    def _save(self) -> None:
        text = json.dumps(self._reasons, sort_keys=True, indent=1, ensure_ascii=False)
        write_whole(self._path, text.encode(errors="replace") + b"\n")


def write_list(folder: Path, rejected: Iterable[tuple[str, str]]) -> Path:
    """rejected.csv with path and reason, written where it would change."""
    path = folder / LIST
    with io.StringIO(newline="") as text:
        writer = csv.writer(text)
        writer.writerow(("path", "reason"))
        writer.writerows(rejected)
        data = text.getvalue().encode(errors="replace")
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    return path
