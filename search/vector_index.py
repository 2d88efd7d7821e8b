"""Vector index: the clips nearest to a vector, exactly or by ANNOY, kept on the disk."""

import contextlib
import fcntl
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from search.clip_store import ClipStore, EmbeddedClip, state_of
from search.trees import TARGET_RECALL, Trees, TreeSettings
from utils.errors import UserError
from utils.files import replacing, write_whole

FORMAT = 1
KINDS = ("auto", "exact", "annoy")
INFO = "index.json"  # names the files that belong together; it takes its place last
TREES_FROM = 200_000  # vectors; of fewer the exact answer takes 50 ms at 1280 dimensions
REBUILD_PART = 0.1  # of the clips that came or went since: more are not searched one by one
READ_BYTES = 1 << 22
MOST_PRODUCTS = 1 << 26  # in memory at once


class IndexMismatch(UserError):
    """A saved index that is missing, damaged, or of another model or store: build it anew."""


@dataclass(frozen=True)
class Hit:
    """A clip, and the cosine of the angle between its vector and the one asked for."""

    id: str
    similarity: float


class VectorIndex:
    """Nearest neighbours among the clips of one model.

    add(clips)   searchable at once, compared one by one
    build()      everything added so far into one part, with ANNOY's trees where they pay
    remove(ids)  not found any more
    save(folder) what was built
    """

    def __init__(self, model_version: str):
        self.model_version = model_version
        self._built = _Part()
        self._added = _Part()
        self._trees: Trees | None = None
        self.note = ""  # why there are no trees, where some were asked for

    def __len__(self) -> int:
        return len(self._built.rows) + len(self._added.rows)

    @property
    def kind(self) -> str:
        return "annoy" if self._trees else "exact"

    @property
    def trees(self) -> TreeSettings | None:
        """How ANNOY is set and the recall that was measured; None where the search is exact."""
        return self._trees and self._trees.settings

    @property
    def digests(self) -> dict[str, str]:
        """Of the clips that can be found, by id."""
        return {**self._built.digests, **self._added.digests}

    @property
    def state(self) -> str:
        """That of a store with the same clips."""
        return state_of(self.digests)

    def add(self, clips: Iterable[EmbeddedClip]) -> None:
        """Makes clips searchable; one with the same id is replaced.

        Raises ValueError for clips of another model.
        """
        ids, digests, rows = [], [], []
        for clip in clips:
            if clip.model_version != self.model_version:
                raise ValueError(f"{clip.id} is of {clip.model_version}, not of this model")
            ids.append(clip.id)
            digests.append(clip.digest)
            rows.append(clip.vector)
        self.remove(ids)
        if ids:
            self._added = _join(self._added, _Part(ids, digests, _stack_units(rows)))

    def remove(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._built.remove(id)
            self._added.remove(id)

    def build(self, kind: str = "auto", *, target_recall: float = TARGET_RECALL) -> None:
        """Brings all clips into one part, sorted by id, and grows trees where they pay.

        `auto` does from TREES_FROM clips on, where ANNOY is installed.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}: one of {', '.join(KINDS)}")
        self._built, self._added = _join(self._built, self._added).sorted(), _Part()
        self._trees, self.note = None, ""
        if kind == "annoy" or (kind == "auto" and len(self) >= TREES_FROM):
            try:
                self._trees = Trees.grow(self._built.vectors, target_recall)
                if self._trees is None:
                    self.note = f"ANNOY does not reach a recall of {target_recall:g} here"
            except ImportError:
                self.note = "ANNOY is not installed (pipenv sync --categories annoy)"

    def query(
        self, vectors: np.ndarray, k: int, *, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """The `k` nearest clips to each of (Q, D) vectors, the nearest first.

        `among` names the clips that may be found; they are then compared one by one.
        """
        queries = np.atleast_2d(np.asarray(vectors, np.float32))
        queries = queries / _lengths(queries)
        return [
            _merge(*found, k)
            for found in zip(
                self._nearest(queries, k, among),
                self._added.nearest(queries, k, among),
                strict=True,
            )
        ]

    def save(self, folder: Path) -> None:
        """Writes what was built, whole or not at all; what an earlier one wrote goes."""
        folder = Path(folder)
        if self._added.rows or not self._built.is_whole:
            raise ValueError("build() comes before save()")
        with _locked(folder):
            tag = f"{self.state}-{self.kind}"
            files = {"clips.txt": self._built.write_names, "vectors.npy": self._built.write_vectors}
            if self._trees:
                files["trees.ann"] = self._trees.save
                if self._trees.projection is not None:
                    projection = self._trees.projection
                    files["projection.npy"] = lambda path: _write_array(path, projection)
            sums = {}
            for name, write in files.items():
                path = folder / f"{tag}-{name}"
                sums[name] = _write_file(path, write)
            info = {
                "format": FORMAT,
                "model_version": self.model_version,
                "state": self.state,
                "tag": tag,
                "trees": self.trees and asdict(self.trees),
                "note": self.note,
                "files": sums,  # [bytes, CRC-32]
            }
            write_whole(folder / INFO, json.dumps(info, indent=1).encode() + b"\n")
            kept = {INFO, "lock", *(f"{tag}-{name}" for name in files)}
            for path in folder.iterdir():
                if path.name not in kept:
                    path.unlink()

    @classmethod
    def load(cls, folder: Path, *, model_version: str, state: str | None = None) -> "VectorIndex":
        """What `save` wrote, its vectors read as they are needed.

        Raises IndexMismatch where it is not of this model, not of this state of a store (if given),
        not as it was written, or can't be used here.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / INFO).read_bytes())
            _check(folder, info, model_version, state)
            index = cls(model_version)
            index.note = info["note"]
            place = {name: folder / f"{info['tag']}-{name}" for name in info["files"]}
            index._built = _Part.read(place["clips.txt"], place["vectors.npy"])
            if info["trees"]:
                projection = None
                if "projection.npy" in place:
                    projection = np.load(place["projection.npy"])
                settings = TreeSettings(**info["trees"])
                index._trees = Trees.load(place["trees.ann"], settings, projection)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise IndexMismatch(f"{folder} holds no index that can be read: {error}") from error
        return index

    def _nearest(
        self, queries: np.ndarray, k: int, among: Collection[str] | None
    ) -> list[list[Hit]]:
        """Of the part that was built."""
        if self._trees is None or among is not None:
            return self._built.nearest(queries, k, among)
        found = []
        for query in queries:
            rows = self._trees.nearest(self._built.vectors, query, k)
            hits = self._built.hits(rows, query)
            # Where most of them are gone, the trees' answer is too short.
            enough = len(hits) >= min(k, len(self._built.rows))
            found += [hits] if enough else self._built.nearest(query[None], k, None)
        return found


def open_index(
    store: ClipStore, folder: Path, *, model_version: str, kind: str = "auto", fresh: bool = False
) -> VectorIndex:
    """The index of a store's clips of one model, in `folder`, as the store is now.

    What came since it was saved is added, what went is removed. Where that is more than
    REBUILD_PART, with `fresh` anything at all, or where another kind is wanted, it is built and
    saved anew, as it is where the saved one is damaged or of another model.
    """
    digests = store.digests(model_version=model_version)
    try:
        index = VectorIndex.load(folder, model_version=model_version)
        wanted = kind in ("auto", index.kind) or bool(index.note)
    except IndexMismatch:
        index, wanted = VectorIndex(model_version), False
    known = index.digests
    gone = [id for id, digest in known.items() if digests.get(id) != digest]
    new = [id for id, digest in digests.items() if known.get(id) != digest]
    index.remove(gone)
    changed = len(set(gone) | set(new))
    if new and len(new) == len(digests):
        index.add(store.find(model_version=model_version))
    else:
        index.add(store.get_many(new).values())
    if not wanted or changed > (0 if fresh else REBUILD_PART * len(known)):
        index.build(kind)
        index.save(folder)
    return index


class _Part:
    """Clips with their vectors; those that were removed have no row in `rows`."""

    def __init__(
        self,
        ids: list[str] | None = None,
        digests: list[str] | None = None,
        vectors: np.ndarray | None = None,
    ):
        self.ids = ids or []
        self._digests = digests or []
        self.vectors = np.zeros((0, 0), np.float32) if vectors is None else vectors  # (N, D), unit
        self.rows = {id: row for row, id in enumerate(self.ids)}
        self._there = np.ones(len(self.ids), bool)

    @property
    def is_whole(self) -> bool:
        """Whether nothing was removed."""
        return len(self.rows) == len(self.ids)

    def remove(self, id: str) -> None:
        row = self.rows.pop(id, None)
        if row is not None:
            self._there[row] = False

    @classmethod
    def read(cls, names: Path, vectors: Path) -> "_Part":
        pairs = [line.split() for line in names.read_text().splitlines()]
        return cls([id for id, _ in pairs], [d for _, d in pairs], np.load(vectors, mmap_mode="r"))

    @property
    def digests(self) -> dict[str, str]:
        return {id: self._digests[row] for id, row in self.rows.items()}

    def sorted(self) -> "_Part":
        """The same without what was removed, by id."""
        ids = sorted(self.rows)
        rows = np.array([self.rows[id] for id in ids], np.int64)
        digests = [self._digests[row] for row in rows]
        in_order = self.is_whole and bool((np.diff(rows) > 0).all())
        return _Part(ids, digests, self.vectors if in_order else self.vectors[rows])

    def nearest(
        self, queries: np.ndarray, k: int, among: Collection[str] | None
    ) -> list[list[Hit]]:
        """By comparing with each."""
        wanted, count = self._there, len(self.rows)
        if among is not None:
            rows = [self.rows[id] for id in self.rows.keys() & among]
            wanted, count = np.zeros(len(self.ids), bool), len(rows)
            wanted[rows] = True
        if count == 0:
            return [[] for _ in queries]
        found, k = [], min(k, count)
        at_once = max(1, MOST_PRODUCTS // len(self.ids))
        for start in range(0, len(queries), at_once):
            some = queries[start : start + at_once]
            for query, similarity in zip(some, (self.vectors @ some.T).T, strict=True):
                if count < len(wanted):
                    similarity[~wanted] = -np.inf
                rows = np.argpartition(similarity, -k)[-k:]
                found.append(self.hits(np.sort(rows), query))
        return found

    def hits(self, rows: np.ndarray, query: np.ndarray) -> list[Hit]:
        """The nearest first, without removed ones."""
        rows = rows[self._there[rows]]
        similarity = self.vectors[rows] @ query
        return [
            Hit(self.ids[rows[place]], float(similarity[place]))
            for place in np.argsort(-similarity, kind="stable")
        ]

    def write_names(self, path: Path) -> None:
        lines = (f"{id} {digest}\n" for id, digest in zip(self.ids, self._digests, strict=True))
        path.write_text("".join(lines))

    def write_vectors(self, path: Path) -> None:
        _write_array(path, self.vectors)


def _join(one: _Part, other: _Part) -> _Part:
    parts = [part for part in (one, other) if part.rows]
    if len(parts) < 2:
        return parts[0] if parts else _Part()
    one, other = (part if part.is_whole else part.sorted() for part in parts)
    vectors = np.concatenate([one.vectors, other.vectors])
    return _Part(one.ids + other.ids, one._digests + other._digests, vectors)


def _merge(first: list[Hit], second: list[Hit], k: int) -> list[Hit]:
    return sorted(first + second, key=lambda hit: (-hit.similarity, hit.id))[:k]


def _stack_units(rows: list[np.ndarray]) -> np.ndarray:
    """(N, D) float32 of length 1; empties the list on the way, for memory."""
    vectors = np.empty((len(rows), len(rows[0])), np.float32)
    for place in range(len(rows)):
        vectors[place], rows[place] = rows[place], None
    vectors /= _lengths(vectors)
    return vectors


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """(N, 1); 1 of what has no length, so that dividing by it leaves it so."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.where(lengths > 0, lengths, 1)[:, None]


def _check(folder: Path, info: dict, model_version: str, state: str | None) -> None:
    """Raises IndexMismatch or OSError."""
    if info["format"] != FORMAT:
        raise IndexMismatch(f"{folder} is of another version of the code: build it anew")
    if info["model_version"] != model_version:
        raise IndexMismatch(
            f"{folder} is of model {info['model_version']}, not of {model_version}: build it anew"
        )
    if state is not None and info["state"] != state:
        raise IndexMismatch(
            f"{folder} is of the store's state {info['state']}, which is {state} now: build it anew"
        )
    for name, expected in info["files"].items():
        path = folder / f"{info['tag']}-{name}"
        if _size_and_sum(path) != expected:
            raise IndexMismatch(f"{path} does not hold what was written: build the index anew")


def _write_file(path: Path, write: Callable[[Path], None]) -> list[int]:
    """[bytes, CRC-32] of what `write` put there; whole or not at all."""
    with replacing(path) as temporary:
        write(temporary)
        return _size_and_sum(temporary)


def _write_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)


def _size_and_sum(path: Path) -> list[int]:
    size = total = 0
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            total = zlib.crc32(block, total)
            size += len(block)
    return [size, total]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """While no other process saves there."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
