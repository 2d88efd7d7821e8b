"""Dataset: clips of the feature store as padded batches."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.clips import Clip
from utils.feature_store import FeatureStore
from utils.prefetch import prefetch

if TYPE_CHECKING:  # it brings the decoders, which a machine that only trains may lack
    from utils.features import FeatureSpec

MIN_SPAN_SECONDS = 3.0  # shortest span that training draws from a clip
RELEASE_CLIPS = 500  # read between two times that the pages of the files are given back
PHILOX_NUMBERS = 4  # that it makes at each count


@dataclass(frozen=True)
class Batch:
    """Clips side by side, padded with zeros; the masks are True where there is something.

    `video` is (B, T, H, W, 3) uint8 RGB frames or (B, T, D) float16 embeddings, `mfcc` is
    (B, M, n_mfcc) float32. A clip without sound has an all-False row in `mfcc_mask`.
    """

    video: torch.Tensor
    video_mask: torch.Tensor  # (B, T) bool
    mfcc: torch.Tensor
    mfcc_mask: torch.Tensor  # (B, M) bool
    labels: torch.Tensor  # (B,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """On the device, without waiting for the copy where the memory is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def part(self, rows: slice) -> "Batch":
        """Some of the clips, in the same memory."""
        return self._map(lambda tensor: tensor[rows])

    def pin(self) -> "Batch":
        """In memory that a GPU can fetch by itself."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return Batch(*(change(getattr(self, field.name)) for field in fields(self)))


Item = tuple[np.ndarray, np.ndarray | None, int]  # frames or embeddings, MFCC, label


class ClipDataset:
    """Clips with their arrays.

    `video_store` holds the pictures in its `video_column`: the frames, or embeddings of them.
    """

    def __init__(
        self,
        clips: list[Clip],
        classes: list[str],
        spec: "FeatureSpec",
        store: FeatureStore,
        *,
        video_store: FeatureStore | None = None,
        video_column: str = "frames",
    ):
        self.clips = clips
        self.classes = classes
        self.spec = spec
        self.store = store
        self.video_store = video_store or store
        self.video_column = video_column
        self.labels = np.array([classes.index(clip.label) for clip in clips], np.int64)
        self._starts = np.array([clip.start_seconds for clip in clips])
        self._ends = np.array([clip.end_seconds for clip in clips])
        self._reads = 0  # since memory was given back
        self._views: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def read_from(
        self, video_store: FeatureStore, video_column: str = "embeddings"
    ) -> "ClipDataset":
        """The same clips, with their pictures read from another store."""
        return ClipDataset(
            self.clips,
            self.classes,
            self.spec,
            self.store,
            video_store=video_store,
            video_column=video_column,
        )

    def only(self, clips: list[Clip]) -> "ClipDataset":
        """Other clips, read in the same way."""
        return ClipDataset(
            clips,
            self.classes,
            self.spec,
            self.store,
            video_store=self.video_store,
            video_column=self.video_column,
        )

    def whole(self, index: int) -> Item:
        """Every frame of a clip and all of its sound."""
        clip = self.clips[index]
        span = clip.start_seconds, clip.end_seconds
        video, mfcc = self._arrays(clip.key)
        if mfcc is not None:
            mfcc = mfcc[self.spec.mfcc_span(*span)]
        return video[self.spec.frame_span(*span)], mfcc, int(self.labels[index])

    def sample(
        self, indices: np.ndarray, train_frames: int, draws: np.ndarray, *, even: bool = False
    ) -> Batch:
        """`train_frames` random frames, in order, and the sound of a random span of each clip.

        A span is 3 s long at least, or the clip: short windows next to an edge are then nothing
        new. All its frames are taken where there are fewer than `train_frames`. With `even` they
        are evenly spaced, from a random one on. `draws` is (B, num_draws) uniform in [0, 1), the
        only thing that chance decides by.
        """
        ends, lengths = self._ends[indices], self._ends[indices] - self._starts[indices]
        shortest = np.minimum(MIN_SPAN_SECONDS, lengths)
        spans = shortest + draws[:, 0] * (lengths - shortest)
        starts = self._starts[indices] + draws[:, 1] * (lengths - spans)
        ends = np.minimum(starts + spans, ends)
        arrays = [self._arrays(self.clips[index].key) for index in indices]
        video_rows, mfcc_rows = [], []
        for (video, mfcc), start, end in zip(arrays, starts.tolist(), ends.tolist(), strict=True):
            video_rows.append(range(*self.spec.frame_span(start, end).indices(len(video))))
            if mfcc is not None:
                mfcc_rows.append(range(*self.spec.mfcc_span(start, end).indices(len(mfcc))))
            else:
                mfcc_rows.append(range(0))
        counts = np.array([len(rows) for rows in video_rows])
        choose = _choose_evenly if even else _choose
        chosen = choose(draws[:, 2:], counts, train_frames)
        frames = [
            rows.start + columns[: min(count, train_frames)]
            for rows, columns, count in zip(video_rows, chosen, counts.tolist(), strict=True)
        ]
        sounds = [
            None if mfcc is None else mfcc[rows.start : rows.stop]
            for (_, mfcc), rows in zip(arrays, mfcc_rows, strict=True)
        ]
        video, video_mask = _gather([video for video, _ in arrays], frames)
        mfcc, mfcc_mask = _pad_sounds(sounds, self.spec.mfcc.n_mfcc)
        return Batch(video, video_mask, mfcc, mfcc_mask, torch.from_numpy(self.labels[indices]))

    @property
    def num_draws(self) -> int:
        """Random numbers that a sample of any clip needs: two for the span, one for each frame."""
        longest = float((self._ends - self._starts).max())
        return 2 + self.spec.frame_span(0.0, longest).stop + 1  # one more by where a span begins

    def release(self) -> None:
        """Gives back the memory of the files' pages that were read so far.

        Clips of a large archive lie far apart, and the system maps up to 2 MB around each.
        """
        self._reads = 0
        for store in (self.store, self.video_store):
            if isinstance(store, FeatureStore):
                store.release()

    def _arrays(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Pictures and MFCC of a recording, as plain views: a memmap's every slice is slow."""
        self._reads += 1
        if self._reads > RELEASE_CLIPS:
            self.release()
        if key not in self._views:
            video, mfcc = self.video_store.get(key, self.video_column), self.store.get(key, "mfcc")
            self._views[key] = np.asarray(video), None if mfcc is None else np.asarray(mfcc)
        return self._views[key]


class TrainingBatches:
    """Batches of random spans; a clip's is a function of (seed, epoch, position in the epoch).

    So training taken up anywhere in an epoch sees what the unbroken run would have seen, whatever
    the size of its batches. Each epoch draws every clip `draws` times. Of `size` processes, the
    one with this `rank` gets its part of each batch; they differ by a clip at most, so that the
    last batch of an epoch may leave one without any. `wait_seconds` adds up what was waited.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        *,
        train_frames: int,
        draws: int,
        seed: int,
        rank: int = 0,
        size: int = 1,
        pin: bool = False,
        even: bool = False,
        finish: Callable[[Batch], Batch] | None = None,
    ):
        self.dataset = dataset
        self.batch_size = batch_size  # of all processes together
        self.train_frames = train_frames
        self.draws = draws
        self.seed = seed
        self.rank = rank
        self.size = size
        self.pin = pin
        self.even = even  # whether the frames of a span are evenly spaced
        self.finish = finish  # what else the thread does to each batch
        self.wait_seconds = 0.0

    @property
    def num_clips(self) -> int:
        """Draws in an epoch, of all processes together."""
        return self.draws * len(self.dataset)

    def own_part(self, position: int) -> range:
        """Positions in the epoch that are this process's of the batch which begins at one."""
        count = min(self.batch_size, self.num_clips - position)
        bounds = [position + count * rank // self.size for rank in (self.rank, self.rank + 1)]
        return range(*bounds)

    def epoch(self, epoch: int, first_position: int = 0) -> Iterator[Batch | None]:
        """The batches of an epoch from a position on, made ahead by a thread."""
        rng = np.random.default_rng((self.seed, epoch))
        order = np.concatenate([rng.permutation(len(self.dataset)) for _ in range(self.draws)])

        def batches() -> Iterator[Batch | None]:
            for start in range(first_position, self.num_clips, self.batch_size):
                positions = self.own_part(start)
                yield self._batch(order, epoch, positions) if positions else None

        with contextlib.closing(prefetch(batches())) as ahead:
            for _ in range(first_position, self.num_clips, self.batch_size):
                started = time.perf_counter()
                batch = next(ahead)
                self.wait_seconds += time.perf_counter() - started
                yield batch

    def _batch(self, order: np.ndarray, epoch: int, positions: range) -> Batch:
        draws = _draws((self.seed, epoch), positions, self.dataset.num_draws)
        indices = order[positions.start : positions.stop]
        batch = self.dataset.sample(indices, self.train_frames, draws, even=self.even)
        batch = self.finish(batch) if self.finish else batch
        return batch.pin() if self.pin else batch


def whole_batches(dataset: ClipDataset, batch_size: int) -> Iterator[Batch]:
    """Whole clips in order, for evaluation."""
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        yield collate([dataset.whole(i) for i in indices], dataset.spec.mfcc.n_mfcc)


def collate(items: list[Item], n_mfcc: int) -> Batch:
    """One padded batch of (video, mfcc or None, label)."""
    video, video_mask = _pad([item[0] for item in items])
    mfcc, mfcc_mask = _pad_sounds([item[1] for item in items], n_mfcc)
    labels = torch.tensor([item[2] for item in items], dtype=torch.int64)
    return Batch(video, video_mask, mfcc, mfcc_mask, labels)


def _draws(seed: tuple[int, ...], positions: range, count: int) -> np.ndarray:
    """(positions, count) uniform in [0, 1), each row a function of the seed and its position.

    By a generator that counts: it is set to any place at once, and one call draws all rows.
    """
    blocks = math.ceil(count / PHILOX_NUMBERS)
    bits = np.random.Philox(np.random.SeedSequence(seed)).advance(positions.start * blocks)
    drawn = np.random.Generator(bits).random((len(positions), blocks * PHILOX_NUMBERS))
    return drawn[:, :count]


def _choose(draws: np.ndarray, counts: np.ndarray, number: int) -> np.ndarray:
    """(B, <= number) different columns below each row's count, in order; all of them, and then
    others, where it has fewer than `number`."""
    longest = int(counts.max())
    keys = np.where(np.arange(longest) < counts[:, None], draws[:, :longest], 1.0)
    if longest > number:
        return np.sort(np.argpartition(keys, number - 1, axis=1)[:, :number], axis=1)
    return np.broadcast_to(np.arange(longest), keys.shape)


def _choose_evenly(draws: np.ndarray, counts: np.ndarray, number: int) -> np.ndarray:
    """(B, number) columns below each row's count, evenly spaced from a random one of the first on;
    all of them, and then others, where it has fewer than `number`."""
    counts = counts[:, None]
    first = (draws[:, :1] * counts).astype(np.int64)  # in units of 1 / number: floats would round
    return (np.arange(number) * counts + first) // np.minimum(counts, number).clip(min=1)


def _gather(arrays: list[np.ndarray], rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """These rows of each array, padded, and which of them are no padding; copied once."""
    length = max(1, max(map(len, rows)))
    padded = np.empty((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    mask = np.zeros((len(arrays), length), bool)
    for place, (array, chosen) in enumerate(zip(arrays, rows, strict=True)):
        # By default numpy would copy once more, so that a row that is not there spoils nothing.
        array.take(chosen, axis=0, out=padded[place, : len(chosen)], mode="clip")
        padded[place, len(chosen) :] = 0
        mask[place, : len(chosen)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)


def _pad_sounds(sounds: list[np.ndarray | None], n_mfcc: int) -> tuple[torch.Tensor, torch.Tensor]:
    nothing = np.zeros((0, n_mfcc), np.float16)
    mfcc, mask = _pad([nothing if sound is None else sound for sound in sounds])
    return mfcc.float(), mask  # numpy's halves are slow


def _pad(arrays: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(1, max(len(array) for array in arrays))
    padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    mask = np.zeros((len(arrays), length), bool)
    for place, array in enumerate(arrays):
        padded[place, : len(array)] = array
        mask[place, : len(array)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)
