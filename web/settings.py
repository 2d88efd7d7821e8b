"""Settings: what the page shows, where it writes, who may use it, and its bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

UPLOADS = "uploads"  # name of the folder of what was uploaded
MAX_UPLOAD_BYTES = 8 << 30
MAX_UPLOADS = 100  # files in the folder
MAX_JOBS = 2000  # queued and running at a time: an archive may be labelled at once


@dataclass(frozen=True)
class Folder:
    """A folder whose recordings are shown; ids of recordings are made of its name."""

    name: str
    path: Path  # resolved


@dataclass(frozen=True)
class Settings:
    """What serve.py was told. Folders are resolved, and the last one is that of uploads."""

    folders: tuple[Folder, ...]
    data_dir: Path  # what trainings read
    cache_dir: Path
    runs_dir: Path
    checkpoint: Path | None = None  # None: the champion, else the latest, whichever is there
    token: str | None = None  # None: everybody who reaches the port, on this machine
    weights: str | None = None  # of the trunk, for trainings and for search without a model
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    max_uploads: int = MAX_UPLOADS
    max_jobs: int = MAX_JOBS

    @classmethod
    def of(
        cls,
        folders: Sequence[Path],
        *,
        data_dir: Path = Path("data"),
        cache_dir: Path = Path("cache"),
        runs_dir: Path = Path("runs"),
        **more: object,
    ) -> "Settings":
        """Settings with a name for each folder, by default that of data. Raises UserError.

        A folder that is given twice, or lies in another one, is shown once.
        """
        named = {UPLOADS: (cache_dir / UPLOADS).resolve()}
        for folder in folders or [data_dir]:
            if folders and not folder.is_dir():
                raise UserError(f"{folder} is no folder: pass one with recordings")
            path = folder.resolve()
            if not any(known == path or known in path.parents for known in named.values()):
                named[_free_name(path.name or "root", named)] = path
        uploads = named.pop(UPLOADS)
        return cls(
            (*(Folder(*item) for item in named.items()), Folder(UPLOADS, uploads)),
            data_dir.resolve(),
            cache_dir.absolute(),
            runs_dir.absolute(),
            **more,
        )

    @property
    def uploads(self) -> Folder:
        return self.folders[-1]

    @property
    def review_dir(self) -> Path:
        """What the page itself remembers: jobs, proxies, levels, lengths."""
        return self.cache_dir / "review"

    @property
    def labelled_dir(self) -> Path:
        """The ledger's, which label_recording.py has too."""
        return self.cache_dir / "labelled"


def _free_name(name: str, taken: dict) -> str:
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
