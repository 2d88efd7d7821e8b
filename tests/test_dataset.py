"""Batches hold the frames and the sound of their clips, in an order that can be taken up again."""

import itertools
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.audio import MfccSpec
from utils.clips import Clip
from utils.dataset import (
    MIN_SPAN_SECONDS,
    RELEASE_CLIPS,
    Batch,
    ClipDataset,
    TrainingBatches,
    collate,
    whole_batches,
)
from utils.feature_store import Column, FeatureStore
from utils.features import FeatureSpec
from utils.recordings import Recording, Span

FPS = 4
SPEC = FeatureSpec(float(FPS), (2, 2), "fast", False, MfccSpec())
SECONDS = 40  # of each made recording
SILENT = 3  # the number of the one without sound


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    """Five recordings whose rows say which recording and which row they are."""
    columns = {"frames": Column("uint8", (2, 2, 3)), "mfcc": Column("float16", (20,))}
    store = FeatureStore(tmp_path_factory.mktemp("store"), columns)
    with store.writing():
        for number in range(5):
            frames = np.zeros((SECONDS * FPS, 2, 2, 3), np.uint8)
            frames[..., 0], frames[..., 1] = np.arange(len(frames))[:, None, None], number
            mfcc = np.zeros((SECONDS * 31 + 10, 20), np.float16)  # 31.25 rows a second
            mfcc[:, 0], mfcc[:, 1] = np.arange(len(mfcc)), number
            arrays = {"frames": iter([frames])}
            if number != SILENT:
                arrays["mfcc"] = iter([mfcc])
            store.add(str(number), arrays, {})
    return store


def make_dataset(store: FeatureStore, spans: list[tuple[int, float, float]]) -> ClipDataset:
    """Clips of spans (number of the recording, start, end); odd ones are games."""
    clips = []
    for number, start, end in spans:
        label = ("ads", "games")[number % 2]
        name = f"{label}/{number}.mp4"
        recording = Recording(name, (name,), (Span(0.0, math.inf, label),), name, False)
        clips.append(Clip(recording, str(number), start, end, label))
    return ClipDataset(clips, ["ads", "games"], SPEC, store)


@pytest.fixture
def dataset(store) -> ClipDataset:
    spans = [(n, start, start + 10.0) for n in range(5) for start in (0.0, 12.5, 30.0)]
    return make_dataset(store, [*spans, (0, 20.0, 22.0)])  # the last is a short one


def batches_of(dataset: ClipDataset, **changes) -> TrainingBatches:
    settings = {"batch_size": 4, "train_frames": 8, "draws": 1, "seed": 5} | changes
    return TrainingBatches(dataset, settings.pop("batch_size"), **settings)


def same(a: Batch, b: Batch) -> bool:
    names = ("video", "video_mask", "mfcc", "mfcc_mask", "labels")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def all_same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(map(same, ours, theirs))


def test_whole_clip_is_every_frame_and_sound_of_its_span(dataset):
    video, mfcc, label = dataset.whole(4)  # recording 1, [12.5, 22.5)
    assert video[:, 0, 0, 0].tolist() == list(range(50, 90))
    assert set(video[:, 0, 0, 1].tolist()) == {1}
    assert mfcc[:, 0].tolist() == list(range(391, 704))
    assert set(mfcc[:, 1].tolist()) == {1}
    assert label == 1


def sample(
    dataset: ClipDataset, index: int, count: int, train_frames: int = 8, even: bool = False
) -> list[Batch]:
    """`count` random samples of one clip, a batch each."""
    draws = np.random.default_rng(0).random((count, dataset.num_draws))
    return [dataset.sample(np.array([index]), train_frames, row[None], even=even) for row in draws]


def test_sample_is_train_frames_frames_in_order_from_inside_the_clip(dataset):
    for batch in sample(dataset, 4, 200):
        frames = batch.video[0, :, 0, 0, 0].tolist()
        assert len(frames) == 8
        assert frames == sorted(set(frames))
        assert frames[0] >= 50
        assert frames[-1] < 90
        assert set(batch.video[0, :, 0, 0, 1].tolist()) == {1}


def test_even_frames_are_in_order_and_as_far_apart_as_they_can_be(dataset):
    firsts, gaps = set(), set()
    for batch in sample(dataset, 4, 300, even=True):
        frames = batch.video[0, :, 0, 0, 0].numpy().astype(int)
        steps = batch.mfcc[0, :, 0].int() / 31.25
        span = FPS * float(steps[-1] - steps[0])
        assert len(frames) == 8
        assert frames[0] >= 50
        assert frames[-1] < 90
        apart = np.diff(frames)
        assert apart.min() >= 1
        assert np.ptp(apart) <= 1
        assert frames[-1] - frames[0] >= 7 / 8 * span - 2
        firsts.add(int(frames[0]))
        gaps |= set(apart.tolist())
    assert len(firsts) > 20
    assert gaps == {1, 2, 3, 4, 5}


def test_even_frames_are_all_where_there_are_few(dataset):
    batch = sample(dataset, 15, 1, train_frames=100, even=True)[0]
    assert batch.video[0, :, 0, 0, 0].tolist() == list(range(80, 88))
    latest = np.full((1, dataset.num_draws), np.nextafter(1.0, 0.0))
    for train_frames in range(1, 60):
        frames = dataset.sample(np.array([4]), train_frames, latest, even=True).video[0, :, 0, 0, 0]
        assert frames.max() < 90
        assert (frames.float().diff() > 0).all()


def test_sampled_sound_is_a_span_of_three_seconds_at_least_around_the_frames(dataset):
    lengths = []
    for batch in sample(dataset, 4, 300):
        rows = batch.mfcc[0, :, 0].int()
        assert (rows.diff() == 1).all()
        start, end = float(rows[0]) / 31.25, (float(rows[-1]) + 1) / 31.25
        assert start + 1e-6 >= 12.5
        assert end <= 22.5 + 1 / 31.25
        seconds = batch.video[0, :, 0, 0, 0] / FPS
        assert start - 1 / 31.25 <= seconds[0]
        assert seconds[-1] <= end
        lengths.append(end - start)
    assert min(lengths) >= MIN_SPAN_SECONDS - 2 / 31.25
    assert min(lengths) < 4
    assert max(lengths) > 9


def test_samples_reach_every_frame_of_a_clip_behind_its_first_alike(dataset):
    seen = [int(f) for batch in sample(dataset, 4, 2000) for f in batch.video[0, :, 0, 0, 0]]
    counts = np.bincount(seen, minlength=90)[50:]
    assert (counts[1:] > 0).all()  # a span that starts later begins with the next
    middle = counts[10:30]
    assert middle.std() < 0.1 * middle.mean()
    assert abs(counts[5:20].sum() - counts[20:35].sum()) < 0.05 * counts[5:35].sum()


def test_clip_shorter_than_three_seconds_is_sampled_whole(dataset):
    batch = sample(dataset, 15, 1, train_frames=100)[0]
    assert batch.video[0, :, 0, 0, 0].tolist() == list(range(80, 88))
    assert batch.mfcc_mask.sum() == 63


def test_clips_of_a_batch_are_sampled_as_each_alone(dataset):
    indices = np.array([15, 4, 9, 0])  # a short one and a mute one among them
    draws = np.random.default_rng(1).random((4, dataset.num_draws))
    for train_frames, even in itertools.product((3, 8, 20, 100), (False, True)):
        together = dataset.sample(indices, train_frames, draws, even=even)
        each = [
            dataset.sample(indices[k : k + 1], train_frames, draws[k : k + 1], even=even)
            for k in range(4)
        ]
        assert rows_of([together]) == rows_of(each)
        counts = [min(train_frames, int(batch.video_mask.sum())) for batch in each]
        assert together.video_mask.sum(1).tolist() == counts
        assert together.video_mask.sum(1)[0] == min(train_frames, 8)


def test_last_clip_of_a_recording_ends_where_its_arrays_do(dataset):
    clip = dataset.clips[2]
    late = dataset.only([replace(clip, start_seconds=35.0, end_seconds=45.0)])
    for batch in sample(late, 0, 50, train_frames=100):
        assert batch.video[batch.video_mask][:, 0, 0, 0].max() <= SECONDS * FPS - 1


def test_pages_given_back_are_read_again(dataset):
    before = dataset.whole(4)[0].copy()
    dataset.release()
    np.testing.assert_array_equal(dataset.whole(4)[0], before)


def test_pictures_can_come_from_another_store_and_sound_stays(dataset, tmp_path):
    embeddings = FeatureStore(tmp_path, {"embeddings": Column("float16", (6,))})
    with embeddings.writing():
        for number in range(5):
            rows = np.arange(SECONDS * FPS)[:, None].repeat(6, 1)
            embeddings.add(str(number), {"embeddings": iter([rows])}, {})
    embedded = dataset.read_from(embeddings)
    video, mfcc, label = embedded.whole(4)
    assert (video.dtype, video[:, 0].tolist()) == (np.float16, list(range(50, 90)))
    np.testing.assert_array_equal(mfcc, dataset.whole(4)[1])
    assert label == dataset.whole(4)[2]
    batch = next(batches_of(embedded).epoch(0))
    assert (batch.video.shape, batch.video.dtype) == ((4, 8, 6), torch.float16)
    other = embedded.only(dataset.clips[:2])
    assert (len(other), other.whole(0)[0].shape) == (2, (40, 6))


def test_padding_is_zero_and_masked(dataset):
    batch = next(whole_batches(dataset.only([dataset.clips[0], dataset.clips[15]]), 2))
    assert batch.video.shape == (2, 40, 2, 2, 3)
    assert batch.video.dtype == torch.uint8
    assert batch.video_mask.sum(1).tolist() == [40, 8]
    assert batch.video_mask[1].tolist() == [True] * 8 + [False] * 32
    assert batch.mfcc.dtype == torch.float32
    assert batch.mfcc_mask.sum(1).tolist() == [313, 63]
    assert not batch.video[~batch.video_mask].any()
    assert not batch.mfcc[~batch.mfcc_mask].any()
    assert batch.video[1, :8, 0, 0, 0].tolist() == list(range(80, 88))


def test_clip_without_sound_has_an_all_false_mask(dataset):
    mute, heard = dataset.clips[9], dataset.clips[0]
    assert mute.key == str(SILENT)
    batch = next(whole_batches(dataset.only([mute, heard]), 2))
    assert batch.mfcc_mask.any(1).tolist() == [False, True]
    alone = next(whole_batches(dataset.only([mute]), 1))
    assert alone.mfcc.shape == (1, 1, 20)
    assert not alone.mfcc_mask.any()
    assert not alone.mfcc.any()


def test_whole_batches_are_all_clips_in_order(dataset):
    batches = list(whole_batches(dataset, 5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 1]
    assert torch.cat([batch.labels for batch in batches]).tolist() == dataset.labels.tolist()


def test_batch_moves_whole(dataset):
    batch = collate([dataset.whole(0)], 20)
    assert same(batch.to(torch.device("cpu")), batch)


@pytest.mark.parametrize("draws", [1, 3])
def test_epoch_draws_every_clip_as_often_as_asked(store, draws):
    spans = [(number, 10.0 * k, 10.0 * k + 10.0) for number in range(5) for k in range(4)]
    batches = batches_of(make_dataset(store, spans), batch_size=7, draws=draws)
    drawn = []
    epoch = list(batches.epoch(0))
    assert len(epoch) == -(-20 * draws // 7)
    for batch in epoch:
        first = batch.video[:, 0, 0, 0]  # (B, 3): row and recording
        drawn += [(int(number), int(row) // 40) for row, number, _ in first]
    assert sorted(drawn) == sorted([(n, k) for n in range(5) for k in range(4)] * draws)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_each_draw_is_another_span(dataset, batch_size):
    batches = batches_of(dataset.only(dataset.clips[:1]), batch_size=batch_size, draws=8)
    frames = [rows for batch in batches.epoch(0) for rows in batch.video[:, :, 0, 0, 0]]
    assert len({tuple(rows.tolist()) for rows in frames}) == 8


def test_batches_are_a_function_of_seed_and_epoch(dataset):
    epoch = list(batches_of(dataset).epoch(3))
    assert all_same(epoch, list(batches_of(dataset).epoch(3)))
    assert not all_same(epoch, list(batches_of(dataset).epoch(4)))
    assert not all_same(epoch, list(batches_of(dataset, seed=6).epoch(3)))


@pytest.mark.parametrize("draws", [1, 3])
def test_epoch_resumed_at_any_step_is_the_unbroken_one(dataset, draws):
    unbroken = list(batches_of(dataset, draws=draws).epoch(2))
    for step in range(len(unbroken) + 1):
        resumed = list(batches_of(dataset, draws=draws).epoch(2, first_position=4 * step))
        assert all_same(resumed, unbroken[step:])


def rows_of(batches: list[Batch | None]) -> list[list]:
    """What each clip of the batches shows, in their order."""
    return [
        [video[mask].tolist(), mfcc[mfcc_mask].tolist(), int(label)]
        for batch in batches
        if batch
        for video, mask, mfcc, mfcc_mask, label in zip(
            *(batch.video, batch.video_mask, batch.mfcc, batch.mfcc_mask, batch.labels),
            strict=True,
        )
    ]


def test_epoch_goes_on_with_batches_of_another_size(dataset):
    unbroken = rows_of(list(batches_of(dataset).epoch(2)))
    for batch_size in (1, 3, 100):
        rest = batches_of(dataset, batch_size=batch_size).epoch(2, first_position=4)
        assert rows_of(list(rest)) == unbroken[4:]


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_processes_share_each_batch_without_overlap_or_loss(dataset, batch_size, size):
    whole = list(batches_of(dataset, batch_size=batch_size, draws=2).epoch(1))
    shares = [
        list(batches_of(dataset, batch_size=batch_size, draws=2, rank=rank, size=size).epoch(1))
        for rank in range(size)
    ]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert rows_of(parts) == rows_of([batch])
        counts = [len(part) if part else 0 for part in parts]
        assert max(counts) - min(counts) <= 1


def test_waiting_for_batches_is_added_up(dataset, monkeypatch):
    read = ClipDataset.sample

    def slow(*arguments, **how):
        time.sleep(0.01)
        return read(*arguments, **how)

    monkeypatch.setattr(ClipDataset, "sample", slow)
    batches = batches_of(dataset)
    list(batches.epoch(0))
    assert batches.wait_seconds > 0.04  # a batch of four, at least, is waited for


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def assert_no_thread_is_left() -> None:
    for thread in prefetch_threads():
        thread.join(60)
    assert not prefetch_threads()


def test_thread_ends_when_training_stops_in_the_middle_of_an_epoch(dataset):
    epoch = batches_of(dataset, batch_size=1, draws=4).epoch(0)
    next(epoch)
    assert prefetch_threads()
    epoch.close()
    assert_no_thread_is_left()


def test_pages_are_given_back_after_some_hundred_clips(dataset, monkeypatch):
    given_back = []
    monkeypatch.setattr(FeatureStore, "release", lambda store: given_back.append(store))
    for _ in range(RELEASE_CLIPS):
        dataset.whole(0)
    assert given_back == []
    dataset.whole(1)
    assert given_back
