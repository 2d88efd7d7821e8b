"""Airings: the same found again wherever it begins, and spots told apart that ran in a row."""

import numpy as np
import pytest

from search.airings import Airing, find_airings, group_spots, sharpen
from tests.trainings import make_config
from utils.duplicates import Repeat, find_duplicates
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.fingerprints import hash_pictures
from utils.prepared_set import open_feature_store

FPS = 4
SIZE = (32, 32)


@pytest.fixture
def spec(tmp_path) -> FeatureSpec:
    return make_config(tmp_path, fps=FPS).feature_spec


def film(seed: int, seconds: float) -> np.ndarray:
    """(T, 32, 32, 3) uint8: a new picture of 4x4 blocks each second."""
    rng = np.random.default_rng(seed)
    shots = rng.integers(0, 256, (int(np.ceil(seconds)) + 1, 4, 4, 3), dtype=np.uint8)
    rows = (np.arange(round(seconds * FPS)) / FPS).astype(int)
    return shots[rows].repeat(8, axis=1).repeat(8, axis=2)


def music(seed: int, seconds: float, spec: FeatureSpec) -> np.ndarray:
    """(M, n_mfcc) float16 that goes up and down."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 6, (spec.mfcc_span(0, seconds).stop, spec.mfcc.n_mfcc))
    return np.cumsum(steps, axis=0).astype(np.float16)


def put(store: FeatureStore, key: str, frames: np.ndarray, mfcc: np.ndarray | None) -> None:
    columns = {"frames": [frames], "picture_hashes": [hash_pictures(frames)]}
    if mfcc is not None:
        columns["mfcc"] = [mfcc]
    store.add(key, columns, {"aspect_ratio": 1.0})


@pytest.fixture
def archive(tmp_path, spec) -> FeatureStore:
    """`twice` shows a spot of 8 s from 10 s and from 40 s on, `heard` has its sound from 5.04 s."""
    store = open_feature_store(tmp_path / "cache", spec)
    spot, sound = film(1, 8), music(1, 8, spec)
    with store.writing():
        put(
            store, "twice", np.concatenate([film(2, 10), spot, film(3, 22), spot, film(4, 5)]), None
        )
        rows = music(5, 5.04, spec)
        put(
            store,
            "heard",
            film(6, 30),
            np.concatenate([rows, sound + rows[-1], music(7, 12, spec)]),
        )
        put(store, "other", film(8, 60), music(9, 60, spec))
        still = np.repeat(film(1, 1)[:1], 60 * FPS, axis=0)
        put(store, "still", still, None)
    return store


def test_every_airing_is_found_with_its_time(archive, spec):
    found = find_airings(film(1, 8), music(1, 8, spec), archive, spec, sorted(archive))
    seen = {(a.key, a.by): [] for a in found}
    for airing in found:
        seen[airing.key, airing.by].append((airing.start_seconds, airing.end_seconds))
    assert set(seen) == {("twice", "picture"), ("heard", "sound")}
    assert sorted(seen["twice", "picture"]) == [(10.0, 18.0), (40.0, 48.0)]
    ((start, end),) = seen["heard", "sound"]
    assert start == pytest.approx(5.04, abs=0.2)
    assert end == pytest.approx(13.04, abs=0.2)
    assert all(0.8 < airing.likeness <= 1 for airing in found)


def test_hashes_that_were_kept_give_the_same(archive, spec, tmp_path):
    asked = film(1, 8), music(1, 8, spec), archive, spec, sorted(archive)
    expected = find_airings(*asked)
    assert find_airings(*asked, kept_in=tmp_path / "kept") == expected
    (tmp_path / "kept" / "heard.u64").write_bytes(b"odd")  # damaged: made anew
    assert find_airings(*asked, kept_in=tmp_path / "kept") == expected
    assert find_airings(*asked, kept_in=tmp_path / "kept") == expected
    assert (tmp_path / "kept" / "heard.u64").stat().st_size % 8 == 0


def test_part_of_a_spot_finds_it_and_more_than_it_too(archive, spec):
    half = find_airings(film(1, 8)[2 * FPS : 7 * FPS], None, archive, spec, ["twice"])
    assert sorted((a.start_seconds, a.end_seconds) for a in half) == [(12.0, 17.0), (42.0, 47.0)]
    around = np.concatenate([film(11, 6), film(1, 8), film(12, 6)])
    more = find_airings(around, None, archive, spec, ["twice"])
    assert sorted((a.start_seconds, a.end_seconds) for a in more) == [(10.0, 18.0), (40.0, 48.0)]


@pytest.mark.parametrize("seconds", [1.0, 3.0, 20.0])
def test_what_ran_nowhere_is_found_nowhere(archive, spec, seconds):
    report: list[int] = []
    keys = sorted(archive)
    sound = music(51, seconds, spec)
    assert find_airings(film(50, seconds), sound, archive, spec, keys, report=report.append) == []
    assert sum(report) == len(keys)


def airings_of(repeats: list[Repeat]) -> list[tuple[str, float, float]]:
    airings = [airing for spot in group_spots(repeats) for airing in spot.airings]
    return sorted((a.key, a.start_seconds, a.end_seconds) for a in airings)


def test_edges_of_spots_are_those_of_what_is_shared(archive, spec, tmp_path):
    """By the sound, too: of the spot alone, which `heard` has from 5.04 s on, and of `again`."""
    with archive.writing():
        around = [music(60, 20.1, spec), music(1, 8, spec), music(61, 9, spec)]
        put(archive, "again", film(62, 37), np.concatenate(around))
    found = find_duplicates(archive, spec, sorted(archive), tmp_path).repeats
    expected = {"twice": [(10.0, 18.0), (40.0, 48.0)], "heard": [(5.04, 13.04)]}
    expected["again"] = [(20.1, 28.1)]
    blurred, sharp = (
        sorted(
            (a.key, a.start_seconds, a.end_seconds) for s in group_spots(some) for a in s.airings
        )
        for some in (found, sharpen(found, archive, spec, kept_in=tmp_path / "kept"))
    )
    truth = sorted((key, *span) for key, spans in expected.items() for span in spans)
    assert [key for key, *_ in sharp] == [key for key, *_ in truth]
    for (_, *span), (_, *true) in zip(sharp, truth, strict=True):
        assert span == pytest.approx(true, abs=0.3)
    # Else nothing would have had to be done.
    assert max(abs(one[1] - true[1]) for one, true in zip(blurred, truth, strict=True)) > 0.5


def test_picture_that_stands_still_is_no_airing(archive, spec):
    still = np.repeat(film(1, 1)[:1], 10 * FPS, axis=0)
    assert find_airings(still, None, archive, spec, sorted(archive)) == []


def spans(airings: tuple[Airing, ...]) -> list[tuple[str, float, float]]:
    return [(a.key, round(a.start_seconds), round(a.end_seconds)) for a in airings]


def test_chain_of_repeats_is_one_spot():
    spots = group_spots(
        [Repeat("a", 10, "b", 50, 30, "picture"), Repeat("b", 50.5, "c", 5, 29.5, "sound")]
    )
    assert [spans(spot.airings) for spot in spots] == [[("a", 10, 40), ("b", 50, 80), ("c", 5, 34)]]
    assert spots[0].seconds == pytest.approx(30, abs=1)
    assert {airing.by for airing in spots[0].airings} == {"picture", "sound"}


def test_spots_that_ran_in_a_row_are_told_apart_where_one_ran_alone():
    spots = group_spots(
        [
            Repeat("a", 0, "b", 100, 50, "picture"),  # 20 s of one spot, 30 s of another
            Repeat("a", 0, "c", 7, 20, "picture"),  # the first one alone
        ]
    )
    assert [spans(spot.airings) for spot in spots] == [
        [("a", 0, 20), ("b", 100, 120), ("c", 7, 27)],
        [("a", 20, 50), ("b", 120, 150)],
    ]


def test_spot_that_repeats_within_a_recording_counts_each_time():
    spots = group_spots(
        [Repeat("a", 10, "a", 100, 15, "picture"), Repeat("a", 100, "a", 200, 15, "picture")]
    )
    assert [spans(s.airings) for s in spots] == [[("a", 10, 25), ("a", 100, 115), ("a", 200, 215)]]


def test_spots_do_not_hang_on_the_order_of_repeats():
    rng = np.random.default_rng(0)
    repeats = [
        Repeat(f"r{a}", 40.0 * s, f"r{b}", 40.0 * s + 5 * b, 30.0, "picture")
        for s in range(4)
        for a, b in ((0, 1), (1, 2), (0, 3))
    ]
    expected = group_spots(repeats)
    assert group_spots([repeats[i] for i in rng.permutation(len(repeats))]) == expected
    assert group_spots([]) == []
