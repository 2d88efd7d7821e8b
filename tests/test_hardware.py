"""A graphics card decodes what it can; without one, or where it fails, software gives the same."""

import numpy as np
import pytest

from tests import media
from utils import features, hardware, video
from utils.features import FeatureBlock, FeatureSpec, read_features
from utils.media import MediaError
from utils.mfcc import MfccSpec

SPEC = FeatureSpec(4.0, (32, 48), "exact", True, MfccSpec())
has_no_card = pytest.mark.skipif(hardware._open_device() is not None, reason="has a card")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return media.write_video(
        tmp_path_factory.mktemp("video") / "a.mp4", seconds=6, fps=12, draw=media.draw_texture
    )


def joined(blocks: list[FeatureBlock]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([block.frames for block in blocks]),
        np.concatenate([block.mfcc for block in blocks]),
    )


@has_no_card
def test_without_a_card_none_is_asked(path, monkeypatch):
    monkeypatch.setattr(hardware, "MIN_HEIGHT", 0)
    assert hardware.find_card(path, "exact") is None


@has_no_card
def test_asking_for_a_card_that_is_not_there_gives_what_software_gives(path, monkeypatch):
    frames, mfcc = joined(list(read_features(path, SPEC)))
    monkeypatch.setattr(hardware, "MIN_HEIGHT", 0)
    monkeypatch.setattr(hardware, "_open_device", object)
    card = hardware.find_card(path, "exact")
    assert card is not None
    with pytest.raises(MediaError):
        list(features._read_pass(path, SPEC, features.WHOLE, card))
    blocks = list(read_features(path, SPEC))
    assert {block.decoder for block in blocks} == {"software"}
    np.testing.assert_array_equal(joined(blocks)[0], frames)
    np.testing.assert_array_equal(joined(blocks)[1], mfcc)


def test_small_pictures_and_few_of_them_are_left_to_software(path, monkeypatch):
    monkeypatch.setattr(hardware, "_open_device", object)
    assert hardware.find_card(path, "exact") is None
    monkeypatch.setattr(hardware, "MIN_HEIGHT", 72)
    assert hardware.find_card(path, "exact") is not None
    assert hardware.find_card(path, "fast") is not None
    assert hardware.find_card(path, "keyframes") is None
    assert hardware.find_card(path, "opencv") is None


@pytest.mark.parametrize("good_packets", [0, 20, 50])
def test_card_that_fails_midway_is_replaced_by_software(path, monkeypatch, good_packets):
    frames, mfcc = joined(list(read_features(path, SPEC)))
    monkeypatch.setattr(features, "BLOCK_BYTES", 3 * 32 * 48 * 3)
    monkeypatch.setattr(features, "find_card", lambda *_: object())
    on_card = []
    opened, decoded = features.opened, video.decoded

    def opened_in_software(path, card=None):
        on_card.append(card is not None)
        return opened(path)

    def failing(context, packet, *rest):
        failing.left -= 1
        if on_card[-1] and failing.left < 0:
            raise MediaError("the graphics card can't decode it")
        return decoded(context, packet, *rest)

    failing.left = good_packets
    monkeypatch.setattr(features, "opened", opened_in_software)
    monkeypatch.setattr(video, "decoded", failing)
    blocks = list(read_features(path, SPEC))
    assert on_card == [True, False]
    assert [block.decoder for block in blocks if len(block.frames)][-1] == "software"
    assert good_packets < 50 or blocks[0].decoder == "cuda"
    np.testing.assert_array_equal(joined(blocks)[0], frames)
    np.testing.assert_array_equal(joined(blocks)[1], mfcc)


@pytest.mark.gpu
def test_card_gives_the_frames_of_software(path, monkeypatch):
    if hardware._open_device() is None:
        pytest.skip("no card that decodes")
    frames, mfcc = joined(list(read_features(path, SPEC)))
    monkeypatch.setattr(hardware, "MIN_HEIGHT", 0)
    blocks = list(read_features(path, SPEC))
    assert {block.decoder for block in blocks} == {"cuda"}
    assert np.abs(joined(blocks)[0].astype(int) - frames).mean() < 2
    np.testing.assert_array_equal(joined(blocks)[1], mfcc)
