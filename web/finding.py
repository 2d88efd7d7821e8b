"""Finding: what is like a marked range in the page's recordings, with one finder in memory."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.clip_store import ClipStore, open_clip_store
from search.names import place_of, storable
from utils.config import make_config, read_constants
from utils.media import MediaError
from utils.preparation import content_hashes
from utils.progress import Progress
from utils.recordings import find_videos
from utils.rejects import Rejects
from utils.sources import Folder
from web.errors import ApiError, Conflict
from web.jobs import Handle
from web.library import Library, Recording
from web.model_in_use import ModelInUse, NoModel
from web.settings import Settings

if TYPE_CHECKING:  # they import torch, which takes seconds
    from search.finder import Finder
    from search.model import SearchModel
    from search.places import Place
    from search.stretch import Stretch

KIND = "index"  # of the job that brings the index up to date
SCRIPT = Path(__file__).resolve().parent.parent / "cost_optimized_train.py"
MAX_SECONDS = 600.0  # of a range
LOOK_SECONDS = 30.0  # between two looks at whether another program changed the store
PREPARING = 0.7  # part of an index job that is decoding; the rest embeds
VERSION_DIGITS = 16  # of a checkpoint's hash
MORE_PLACES = 8  # asked for, for each wanted one with a label: the store knows few of the labels


class BadRange(ApiError):
    """A range that can't be searched for."""

    status = 422


class NotIndexed(Conflict):
    """Nothing can be found yet."""

    def __init__(self) -> None:
        super().__init__("no recording is indexed by the model in use: index them", kind="no_index")


@dataclass(frozen=True)
class Found:
    """A place, and the page's recording that it lies in; None where it is not one of them."""

    place: "Place"
    recording: Recording | None
    label: str | None  # as the page shows it

    def to_api(self) -> dict:
        place = self.place
        return {
            "recording": self.recording and self.recording.id,
            "name": self.recording.name if self.recording else place.recording,
            "start_seconds": round(place.start_seconds, 3),
            "end_seconds": round(place.end_seconds, 3),
            "label": self.label,
            "likeness": round(place.score, 4),
            "by": place.by,
        }


@dataclass
class _Opened:
    """A finder, and what it was opened with."""

    model: "SearchModel"
    store: ClipStore
    finder: "Finder"
    state: str  # of the store
    looked_at: float


class Finding:
    """Search among the library's recordings, in the store and index that search_clips.py has.

    Questions are answered one after the other. `label_at(recording, seconds)` says what the page
    shows there, None where that is nothing.
    """

    def __init__(
        self,
        settings: Settings,
        library: Library,
        model: ModelInUse,
        label_at: Callable[[Recording, float], str | None],
    ):
        self._settings = settings
        self._library = library
        self._model = model
        self._label_at = label_at
        self._lock = threading.Lock()  # of what is opened
        self._opened: _Opened | None = None
        self._loading = threading.Lock()
        self._search: SearchModel | None = None
        self._trunk: SearchModel | None = None

    def state(self) -> dict:
        """What the model in use has indexed, and how many recordings it has not; loads no model."""
        version, spec = self._identity()
        keys: dict[str, str] = {}
        clips = 0
        if version:
            with open_clip_store(cache_dir=self._settings.cache_dir) as store:
                keys = store.recordings(model_version=version)
                clips = store.count(model_version=version)
        rejects = Rejects(Path(self._settings.cache_dir, "features", spec))
        there = dict(self._contents())
        to_index = sum(
            keys.get(name) is None or keys[name] != key
            for name, key in there.items()
            if rejects.get(key) is None
        )
        return {
            "model": version,
            "recordings": len(keys),
            "clips": clips,
            "stale": to_index > 0 or self._has_gone(keys, there),
            "to_index": to_index,
        }

    def update(self, handle: Handle, arguments: dict) -> dict:
        """Brings the index to the recordings as they are; the job of KIND.

        Whatever ends it, the next one goes on from there.
        """
        from search.finder import Finder, index_folder
        from search.holdings import embed_holdings, prepare_holdings
        from search.vector_index import open_index

        handle.report(None, "loading the model")
        model = self._search_model()
        sources = [Folder(f.path) for f in self._settings.folders if f.path.is_dir()]
        sources = [source for source in sources if find_videos(source)]
        rejected: list[tuple[str, str]] = []
        embedded = 0
        with open_clip_store(cache_dir=self._settings.cache_dir) as store:
            for number, source in enumerate(sources):
                steps = _Steps(handle, number, len(sources), Path(source.name).name)
                holdings = prepare_holdings(
                    source,
                    model.spec,
                    self._settings.cache_dir,
                    classes=model.classes,
                    workers=max(1, (os.cpu_count() or 1) - 1),  # one is the page's
                    say=lambda line: None,
                    watch=steps.prepared,
                )
                rejected += holdings.rejected
                steps.num_frames = holdings.num_frames
                embedded += embed_holdings(store, model, holdings, report=steps.embedded).embedded
            handle.report(None, "building the index")
            folder = index_folder(self._settings.cache_dir, model.version)
            clips = len(open_index(store, folder, model_version=model.version, fresh=True))
            if clips:
                finder = Finder.open(store, model, self._settings.cache_dir)
                finder.make_ready(report=lambda _: handle.check())
        with self._lock:
            self._close()
        told = [{"name": name, "reason": reason} for name, reason in rejected]
        return {"model": model.version, "clips": clips, "embedded": embedded, "rejected": told}

    def find(
        self,
        recording: Recording,
        start_seconds: float,
        end_seconds: float,
        *,
        k: int,
        label: str | None = None,
        same: bool = True,
    ) -> tuple[list[Found], list[Found]]:
        """Where the same ran, and what is similar, best first. Raises BadRange, NotIndexed."""
        if not 0 < end_seconds - start_seconds <= MAX_SECONDS:
            raise BadRange(
                f"the range is {end_seconds - start_seconds:.1f} s long: mark up to "
                f"{MAX_SECONDS:.0f} s"
            )
        wanted = k if label is None else MORE_PLACES * k
        with self._lock:
            opened = self._open()
            asked = self._stretch(opened, recording, start_seconds, end_seconds)
            name = _name_of(recording.path)
            answer = opened.finder.answer(opened.model, asked, name, wanted, same=same)
        known = {_name_of(own.path): own for own in self._library.all()}
        seen = [(recording.id, asked.start_seconds, asked.end_seconds)]
        both = []
        for places in (answer.same, answer.similar):
            found = (self._found(place, known) for place in places)
            # A recording that is indexed under two names, as by a link, is still one.
            both.append([f for f in found if label in (None, f.label) and _is_new(f, seen)])
        return both[0], both[1][:k]

    def _found(self, place: "Place", known: dict[str, Recording]) -> Found:
        own = known.get(place.recording)
        if own is None:  # named by a link, or not one of ours
            own = known.get(storable(place_of(os.path.realpath(place.recording))))
        middle = (place.start_seconds + place.end_seconds) / 2
        return Found(place, own, (own and self._label_at(own, middle)) or place.label)

    def _identity(self) -> tuple[str | None, str]:
        """The version of the model that would search, and the id of what it is fed with.

        None and "" where that is the trunk, which nobody has asked for yet.
        """
        if known := self._model.find():
            sha256, spec = known.identity["sha256"], known.identity["feature_spec"]
            return sha256[:VERSION_DIGITS], spec
        trunk = self._trunk
        return (trunk.version, trunk.spec.id) if trunk else (None, "")

    def _open(self) -> _Opened:
        """What answers, as store and model are now. Raises NotIndexed."""
        from search.finder import Finder

        if self._opened is None:  # that is said without a model, which may have to be downloaded
            with open_clip_store(cache_dir=self._settings.cache_dir) as store:
                if not store.recordings():
                    raise NotIndexed
        model, opened = self._search_model(), self._opened
        if opened is not None and opened.model.version == model.version:
            if time.monotonic() - opened.looked_at < LOOK_SECONDS:
                return opened
            opened.looked_at = time.monotonic()
            if opened.store.state(model_version=model.version) == opened.state:
                return opened
        self._close()
        store = open_clip_store(cache_dir=self._settings.cache_dir)
        try:
            if not store.recordings(model_version=model.version):
                raise NotIndexed
            state = store.state(model_version=model.version)
            finder = Finder.open(store, model, Path(self._settings.cache_dir))
        except BaseException:
            store.close()
            raise
        self._opened = _Opened(model, store, finder, state, time.monotonic())
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.store.close()
            self._opened = None

    def _search_model(self) -> "SearchModel":
        """Of the model in use, or the trunk alone where nothing was trained; one of each kept."""
        from search.model import SearchModel

        with self._loading:
            try:
                in_use = self._model.current()
            except NoModel:
                self._trunk = self._trunk or self._load_trunk()
                return self._trunk
            version = in_use.identity["sha256"][:VERSION_DIGITS]
            if self._search is None or self._search.version != version:
                self._search = SearchModel.of(in_use.classifier, version, in_use.path)
            return self._search

    def _load_trunk(self) -> "SearchModel":
        from search.model import SearchModel
        from training.device import choose_device
        from training.weights import find_weights, new_model

        config = make_config(read_constants(SCRIPT), {})
        weights, source = find_weights(self._settings.weights or "imagenet")
        encoder = new_model(config, 2, weights).video_encoder.to(choose_device())
        return SearchModel.of_trunk(encoder, config.feature_spec, f"the trunk alone, {source}")

    def _stretch(
        self, opened: _Opened, recording: Recording, start_seconds: float, end_seconds: float
    ) -> "Stretch":
        """Out of what is stored of a recording that is as it was then, else out of its file."""
        from search.stretch import read_stretch

        key = opened.finder.key_of(_name_of(recording.path))
        try:
            if key is not None and self._is_content(recording, key):
                return opened.finder.stretch(key, start_seconds, end_seconds)
            return read_stretch(recording.path, opened.model.spec, start_seconds, end_seconds)
        except MediaError as error:
            raise BadRange(f"the range can't be searched for: it is {error}") from error

    def _is_content(self, recording: Recording, key: str) -> bool:
        """Whether the file has the content of that key, by its size and dates."""
        folders = {folder.name: folder.path for folder in self._settings.folders}
        source = Folder(folders[recording.folder])
        hashes = content_hashes(self._settings.cache_dir, source)
        name = recording.path.relative_to(folders[recording.folder]).as_posix()
        (digest,) = hashes.find((name,), hashes.stamps((name,)))
        return digest is not None and key.startswith(digest)

    def _contents(self) -> Iterator[tuple[str, str | None]]:
        """Each recording's name in the store, and its key; None where it was never read."""
        for folder in self._settings.folders:
            source = Folder(folder.path)
            if not folder.path.is_dir():
                continue
            hashes = content_hashes(self._settings.cache_dir, source)
            for video in find_videos(source):
                with contextlib.suppress(OSError):  # gone this moment
                    digests = hashes.find(video.files, hashes.stamps(video.files))
                    key = None if None in digests else "".join(digests)
                    yield _name_of(folder.path / video.name), key

    def _has_gone(self, names: Iterable[str], there: Collection[str]) -> bool:
        """Whether one of these in our folders is not there any more."""
        prefixes = tuple(f"{_name_of(folder.path)}/" for folder in self._settings.folders)
        return any(name.startswith(prefixes) and name not in there for name in names)


def _is_new(found: Found, seen: list[tuple[str, float, float]]) -> bool:
    """Whether it overlaps nothing that was seen, which it then is, too."""
    place, id = found.place, found.recording.id if found.recording else found.place.recording
    for other, start, end in seen:
        if id == other and place.start_seconds < end and start < place.end_seconds:
            return False
    seen.append((id, place.start_seconds, place.end_seconds))
    return True


class _Steps:
    """How far an index job is, from two counts of each folder."""

    def __init__(self, handle: Handle, number: int, count: int, name: str):
        self._handle = handle
        self._number = number
        self._count = count
        self._name = name
        self._frames = 0
        self.num_frames = 0

    def prepared(self, progress: Progress) -> None:
        self._report(PREPARING * (progress.fraction or 0.0), f"reading {self._name}")

    def embedded(self, frames: int) -> None:
        self._frames += frames
        part = self._frames / max(self.num_frames, 1)
        self._report(PREPARING + (1 - PREPARING) * part, f"embedding {self._name}")

    def _report(self, fraction: float, note: str) -> None:
        self._handle.report((self._number + fraction) / self._count, note)


def _name_of(path: Path) -> str:
    """What the store calls a recording."""
    return storable(place_of(str(path)))
