"""Dataset: clips of the feature store as padded batches."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.clips import Clip
from utils.feature_store import FeatureStore

if TYPE_CHECKING:  # it brings the decoders, which a machine that only trains may lack
    from utils.features import FeatureSpec

MIN_SPAN_SECONDS = 3.0  # shortest span that training draws from a clip
PREFETCH_BATCHES = 3


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
        self.labels = np.array([classes.index(clip.recording.label) for clip in clips], np.int64)

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
        return self._read(index, clip.start_seconds, clip.end_seconds)

    def sample(self, index: int, train_frames: int, rng: np.random.Generator) -> Item:
        """`train_frames` random frames, in order, and the sound of a random span of a clip.

        The span is 3 s long at least, or the clip: short windows next to an edge are then nothing
        new. All its frames are taken where there are fewer than `train_frames`.
        """
        clip = self.clips[index]
        length = clip.end_seconds - clip.start_seconds
        span = rng.uniform(min(MIN_SPAN_SECONDS, length), length)
        start = clip.start_seconds + rng.uniform(0.0, length - span)
        video, mfcc, label = self._read(index, start, start + span)
        if len(video) > train_frames:
            video = video[np.sort(rng.choice(len(video), train_frames, replace=False))]
        return video, mfcc, label

    def _read(self, index: int, start_seconds: float, end_seconds: float) -> Item:
        key = self.clips[index].key
        video = self.video_store.get(key, self.video_column)
        video = video[self.spec.frame_span(start_seconds, end_seconds)]
        mfcc = self.store.get(key, "mfcc")
        if mfcc is not None:
            mfcc = mfcc[self.spec.mfcc_span(start_seconds, end_seconds)]
        return video, mfcc, int(self.labels[index])


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
    ):
        self.dataset = dataset
        self.batch_size = batch_size  # of all processes together
        self.train_frames = train_frames
        self.draws = draws
        self.seed = seed
        self.rank = rank
        self.size = size
        self.pin = pin
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
                items = [
                    self.dataset.sample(
                        order[position],
                        self.train_frames,
                        np.random.default_rng((self.seed, epoch, position)),
                    )
                    for position in self.own_part(start)
                ]
                batch = collate(items, self.dataset.spec.mfcc.n_mfcc) if items else None
                yield batch.pin() if self.pin and batch else batch

        with contextlib.closing(prefetch(batches())) as ahead:
            for _ in range(first_position, self.num_clips, self.batch_size):
                started = time.perf_counter()
                batch = next(ahead)
                self.wait_seconds += time.perf_counter() - started
                yield batch


def whole_batches(dataset: ClipDataset, batch_size: int) -> Iterator[Batch]:
    """Whole clips in order, for evaluation."""
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        yield collate([dataset.whole(i) for i in indices], dataset.spec.mfcc.n_mfcc)


def collate(items: list[Item], n_mfcc: int) -> Batch:
    """One padded batch of (video, mfcc or None, label)."""
    videos = [item[0] for item in items]
    sounds = [np.zeros((0, n_mfcc), np.float16) if item[1] is None else item[1] for item in items]
    video, video_mask = _pad(videos, videos[0].dtype)
    mfcc, mfcc_mask = _pad(sounds, np.float32)
    labels = torch.tensor([item[2] for item in items], dtype=torch.int64)
    return Batch(video, video_mask, mfcc, mfcc_mask, labels)


def prefetch(iterator: Iterator) -> Iterator:
    """The items of `iterator`, made by a thread a few ahead; its exception is raised here."""
    ready: queue.Queue = queue.Queue(PREFETCH_BATCHES)
    stop = threading.Event()
    end = object()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            for item in iterator:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # handed to the consumer, which raises it
            put((end, error))

    threading.Thread(target=fill, daemon=True, name="prefetch").start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()


def _pad(arrays: list[np.ndarray], dtype: np.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(1, max(len(array) for array in arrays))
    padded = np.zeros((len(arrays), length, *arrays[0].shape[1:]), dtype)
    mask = np.zeros((len(arrays), length), bool)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = array
        mask[row, : len(array)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)
