"""Registry: trained models by version, which of them is the champion, and the way back.

    runs/models/0003-1a2b3c4d5e6f7890/   a version: what its training left, and version.json
    runs/models/champions.json           who was champion from when on, why, and what is under way
    runs/champion -> models/0003-...     what label_recording.py and search_clips.py use

MLflow's model registry shows the same, with the aliases `champion` and `challenger`; where somebody
moves the first one there, that is followed. What counts is the folder: a promotion is (1) written
down in champions.json as under way, (2) done with the link, (3) written down as done, (4) told to
MLflow, (5) written down as told. Each is one whole write. What a killed process has left half done,
or a server that was away was not told, `finish` finishes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from training.child import is_finished
from training.run_progress import VERSION_FILE, run_folders
from training.tracking import NAME_VARIABLE, experiment_id, explained, open_client
from utils.errors import UserError
from utils.files import write_whole

MODEL = "best.safetensors"
OTHERS = ("report.html", "metrics.json", "config.json", "data.json", "predictions.csv", "run.log")
CHAMPION, CHALLENGER = "champion", "challenger"
MODELS, HISTORY, FACTS = "models", "champions.json", VERSION_FILE
REGISTERED = "ad-game-classifier"  # the name in MLflow, unless that of the experiment is given
TAG, HASH_TAG = "version", "sha256"  # of a version in MLflow


class RegistryError(UserError):
    """A version that is unknown or damaged, or no way back."""


@dataclass(frozen=True)
class StoredFile:
    """The content of a file of a version."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Version:
    """A registered model: a folder that is never changed again."""

    name: str  # 0003-1a2b3c4d5e6f7890: number and the first half of the hash of the weights
    folder: Path
    files: dict[str, StoredFile]
    facts: dict  # what whoever added it wanted kept

    @property
    def number(self) -> int:
        return int(self.name.partition("-")[0])

    @property
    def id(self) -> str:
        """What the model is known by elsewhere: 16 hex digits of its checkpoint's sha256."""
        return self.name.partition("-")[2]

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    def check(self) -> None:
        """Raises RegistryError where a file is not what it was when it was added."""
        for name, file in self.files.items():
            path = self.folder / name
            if not path.is_file() or hash_file(path) != file.sha256:
                raise RegistryError(
                    f"{path} is damaged or gone: {self.name} can't be used, choose another version"
                )


@dataclass(frozen=True)
class Reign:
    """A version's time as champion, from `since` on."""

    version: str
    after: str | None  # the version it took over from
    since: str  # ISO 8601
    why: str


class Registry:
    """The versions below `runs_dir`, and MLflow at `uri` in step with them; None goes without.

    Changes are made one process at a time.
    """

    def __init__(self, runs_dir: str | Path, uri: str | None = None):
        self.folder = Path(runs_dir, MODELS)
        self._runs_dir = Path(runs_dir)
        self._link = self._runs_dir / CHAMPION
        self._mirror = _Mirror(uri, self._runs_dir) if uri else None

    def versions(self) -> list[Version]:
        """All, in the order in which they were added."""
        found = (_read_version(path.parent) for path in self.folder.glob(f"[0-9]*/{FACTS}"))
        return sorted(found, key=lambda version: version.number)

    @property
    def champion(self) -> Version | None:
        """The version in use."""
        name = os.path.basename(os.readlink(self._link)) if self._link.is_symlink() else None
        return next((version for version in self.versions() if version.name == name), None)

    def history(self) -> list[Reign]:
        """All champions, the first one first."""
        return [Reign(**reign) for reign in self._read_history()["reigns"]]

    def find(self, name: str) -> Version:
        """The version of that name, number, or beginning of its id. Raises RegistryError."""
        found = [
            version
            for version in self.versions()
            if name in (version.name, str(version.number), version.name.partition("-")[0])
            or (len(name) >= 4 and version.id.startswith(name))
        ]
        if len(found) != 1:
            known = ", ".join(version.name for version in self.versions()) or "none"
            raise RegistryError(f"there is no version {name}: {known} are registered")
        return found[0]

    def opponent(self, challenger_id: str) -> Version | None:
        """Whom the model with this id challenges: the champion, or, if it is or was champion
        itself, the one from whom it took over. None for the first.
        """
        for reign in self.history():
            if reign.version.endswith(f"-{challenger_id}"):
                return self.find(reign.after) if reign.after else None
        return self.champion

    def finish(self) -> str | None:
        """Finishes a promotion that was broken off and follows one made in MLflow's own pages.

        Returns what was done in one line. Raises TrackingError where MLflow does not answer.
        """
        with self._changing():
            was_broken_off = self._settle()
            champion = self.champion
            if was_broken_off:
                said = f"the promotion of {champion.name}, which was broken off, is done now"
                self._tell(champion)
                return said
            if champion is None or self._mirror is None:
                return None
            wanted = self._mirror.champion()
            if wanted == champion.name:
                return None
            # Nobody chose it there: it is as we left it, or another database than before.
            if wanted in (None, self._read_history()["mirrored"]):
                self._tell(champion)
                return f"MLflow is told that {champion.name} is champion"
            if wanted not in {version.name for version in self.versions()}:
                return None  # of another machine
            self._take_over(self.find(wanted), "chosen in MLflow")
            return f"champion is {wanted}, as chosen in MLflow"

    def add(self, run_dir: Path, facts: dict) -> Version:
        """The version made of a finished run's files, challenger from now on.

        One that has the same weights already is returned as it is. It appears whole or not at all.
        """
        with self._changing():
            digest = hash_file(run_dir / MODEL)
            version = next((v for v in self.versions() if v.id == digest[:16]), None)
            if version is None:
                number = max((v.number for v in self.versions()), default=0) + 1
                version = self._copy(run_dir, f"{number:04d}-{digest[:16]}", facts)
            if self._mirror:
                self._mirror.register(version, CHALLENGER)
            return version

    def promote(self, version: Version, why: str) -> None:
        """Makes a version the champion, unless it is. Raises RegistryError for damaged files.

        It is done here where TrackingError is raised, as MLflow does not answer.
        """
        version.check()
        with self._changing():
            if self.champion != version:
                self._take_over(version, why)

    def rollback(self, name: str | None = None) -> Version:
        """Makes an earlier champion the champion again, and returns it.

        Without a name it is the one from which the present champion first took over. Raises
        RegistryError where there is none, and else as `promote` does.
        """
        with self._changing():
            self._settle()
        champion, reigns = self.champion, self.history()
        if champion is None:
            raise RegistryError("there is no champion yet: run run_pipeline.py")
        if name is None:
            name = next(r.after for r in reigns if r.version == champion.name)
            if name is None:
                raise RegistryError(
                    f"{champion.name} was the first champion: there is none to go back to"
                )
        version = self.find(name)
        if version.name not in {reign.version for reign in reigns}:
            earlier = ", ".join(dict.fromkeys(reign.version for reign in reigns))
            raise RegistryError(f"{version.name} was never champion: go back to one of {earlier}")
        self.promote(version, f"rolled back from {champion.name}")
        return version

    def take_history(self, history: bytes) -> None:
        """Makes the champions of another machine this one's; their versions are here already."""
        with self._changing():
            known = json.loads(history)
            if known["pending"] is None:
                known["pending"] = known["reigns"].pop()
            write_whole(self.folder / HISTORY, json.dumps(known, indent=1).encode() + b"\n")
            self._settle()
            self._tell(self.champion)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # for a moment only, by the page or another pipeline
            for left in self.folder.glob(".*.partial"):  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield

    def _copy(self, run_dir: Path, name: str, facts: dict) -> Version:
        partial = self.folder / f".{name}.partial"
        partial.mkdir()
        files = {}
        for file in (MODEL, *OTHERS):
            if (run_dir / file).exists():
                write_whole(partial / file, (run_dir / file).read_bytes())
                path = partial / file
                files[file] = StoredFile(hash_file(path), path.stat().st_size)
        values = {
            "files": {file: asdict(stored) for file, stored in files.items()},
            "run": run_dir.resolve().name,
            "added": _now(),
            **facts,
        }
        write_whole(partial / FACTS, json.dumps(values, indent=1, sort_keys=True).encode() + b"\n")
        os.rename(partial, self.folder / name)
        return _read_version(self.folder / name)

    def _take_over(self, version: Version, why: str) -> None:
        self._settle()
        champion = self.champion
        reign = Reign(version.name, champion.name if champion else None, _now(), why)
        self._write_history(pending=asdict(reign))
        self._settle()
        self._tell(version)

    def _settle(self) -> bool:
        """Whether something was under way; it is done then, as far as this machine goes."""
        known = self._read_history()
        if known["pending"] is None:
            return False
        link = self._link.with_name(f".{CHAMPION}.partial")
        link.unlink(missing_ok=True)
        link.symlink_to(Path(MODELS, known["pending"]["version"]))
        os.replace(link, self._link)
        self._write_history(reigns=[*known["reigns"], known["pending"]], pending=None)
        return True

    def _tell(self, champion: Version) -> None:
        if self._mirror:
            self._mirror.register(champion, CHAMPION)
            self._write_history(mirrored=champion.name)

    def _read_history(self) -> dict:
        path = self.folder / HISTORY
        if not path.exists():
            return {"reigns": [], "pending": None, "mirrored": None}
        return json.loads(path.read_bytes())

    def _write_history(self, **changes: object) -> None:
        known = {**self._read_history(), **changes}
        write_whole(self.folder / HISTORY, json.dumps(known, indent=1).encode() + b"\n")


class _Mirror:
    """The same versions in MLflow's model registry."""

    def __init__(self, uri: str, runs_dir: Path):
        self._uri = uri
        self._runs_dir = runs_dir
        self._name = os.environ.get(NAME_VARIABLE, REGISTERED)

    def champion(self) -> str | None:
        """The name of the version that has the alias."""
        with explained(self._uri):
            return self._aliased(open_client(self._uri), CHAMPION)

    def register(self, version: Version, alias: str) -> None:
        """Sees to it that the version is there and has the alias."""
        with explained(self._uri):
            client = open_client(self._uri)
            if not client.search_registered_models(f"name='{self._name}'"):
                client.create_registered_model(self._name)
            if self._aliased(client, alias) == version.name:
                return
            number = self._number(client, version) or self._create(client, version)
            client.set_registered_model_alias(self._name, alias, number)

    def _aliased(self, client: object, alias: str) -> str | None:
        models = client.search_registered_models(f"name='{self._name}'")
        number = models[0].aliases.get(alias) if models else None
        found = client.get_model_version(self._name, number) if number else None
        return found.tags.get(TAG) if found else None

    def _number(self, client: object, version: Version) -> str | None:
        """What MLflow calls the version; None where it does not know it."""
        known = client.search_model_versions(f"name='{self._name}'")
        return next((v.version for v in known if v.tags.get(TAG) == version.name), None)

    def _create(self, client: object, version: Version) -> str:
        # A server takes a model from the files of a run only: never from a folder of ours.
        experiment = experiment_id(client, self._uri, self._runs_dir)
        run = client.create_run(experiment, run_name=f"model {version.name}")
        client.log_artifact(run.info.run_id, str(version.model))
        client.set_terminated(run.info.run_id)
        tags = {TAG: version.name, HASH_TAG: version.files[MODEL].sha256}
        source = f"{run.info.artifact_uri}/{MODEL}"
        made = client.create_model_version(self._name, source, run.info.run_id, tags=tags)
        return made.version


def default_checkpoint(runs_dir: str | Path = "runs") -> Path:
    """The champion's, else what the last training left that has ended well, else `latest`'s.

    A training that goes on, or was broken off, is not used before it was judged.
    """
    champion = Path(runs_dir, CHAMPION, MODEL)
    if champion.exists():
        return champion
    latest = Path(runs_dir, "latest")
    if not is_finished(latest):
        ended = [folder for folder in run_folders(Path(runs_dir)) if is_finished(folder)]
        latest = max(ended, key=lambda f: (f / MODEL).stat().st_mtime_ns, default=latest)
    return latest / MODEL


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_version(folder: Path) -> Version:
    values = json.loads((folder / FACTS).read_bytes())
    files = {name: StoredFile(**file) for name, file in values.pop("files").items()}
    return Version(folder.name, folder, files, values)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
