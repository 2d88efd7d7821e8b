"""Live windows: what the network says of the newest seconds, and what was like them before."""

import numpy as np
import pytest
import torch
from torch import nn

from models.array_network import ArrayNetwork
from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier
from models.mobilenet_v2 import EMBEDDING_SIZE
from models.runtime import TrunkRuntime
from timeline.changes import WINDOW_SHARES
from timeline.classifier import Classifier
from timeline.live_windows import LiveWindows
from utils.features import FeatureSpec
from utils.mfcc import MfccSpec
from utils.streams import StreamBlock
from utils.tracks import SoundRows

SPEC = FeatureSpec(4.0, (36, 64), "fast", False, MfccSpec())
ADS, GAMES = range(2)
BLOCK_SECONDS = 0.5
RANDOM = np.random.default_rng(0)
LOOKS = RANDOM.gamma(1.0, 1.0, (256, EMBEDDING_SIZE))


class Saying:
    """Says of a window what it is told to, in log odds of ads, whatever the pictures are."""

    order_matters, uses_sound = False, False
    num_classes, row_size = 2, EMBEDDING_SIZE
    log_odds = 0.0
    heard: np.ndarray  # (windows,) bool: which had sound

    @property
    def trunk(self):
        return self

    def embed(self, frames):
        looks = LOOKS[frames[:, 0, 0, 0]]
        return (looks * RANDOM.uniform(0.8, 1.2, looks.shape)).astype(np.float16)

    def pooled_logits(self, video, has_video, sound, has_sound):
        assert video.shape == (len(WINDOW_SHARES), 2 * EMBEDDING_SIZE)
        self.heard = has_sound
        return np.tile(np.float32([self.log_odds, 0.0]), (len(video), 1))


class Watched:
    """Windows of a stream, and where it is."""

    def __init__(self):
        self.network = Saying()
        model = Classifier(self.network, SPEC, ("ads", "games"), clip_seconds=10.0, temperature=1.0)
        self.windows, self.now = LiveWindows(model, self.network), 0.0

    def show(self, picture: int, seconds: float, log_odds: float) -> np.ndarray:
        """What is known of the windows at its end."""
        self.network.log_odds = log_odds
        said = np.empty((0, 2))
        for _ in range(round(seconds / BLOCK_SECONDS)):
            frames = np.full((2, *SPEC.frame_size, 3), picture, np.uint8)
            self.windows.take(StreamBlock(self.now, frames, (), self.now, 0.0, 0))
            self.now += BLOCK_SECONDS
            said = self.windows.judge()
        assert said.shape == (len(WINDOW_SHARES), 2)
        np.testing.assert_allclose(said.sum(axis=1), 1.0)
        return said


@pytest.fixture
def watched():
    """Three minutes of play in four views, a break of eight spots, and play again."""
    watched = Watched()
    play = [(view, 8.0, -3.0) for view in range(4)]
    for shown in play * 6 + [(10 + number, 16.0, 3.0) for number in range(8)] + play * 2:
        watched.show(*shown)
    return watched


def test_what_the_network_doubts_is_known_by_what_was_like_it_before(watched):
    assert watched.show(0, 12.0, 0.0)[:, GAMES].min() > 0.6
    assert watched.show(12, 12.0, 0.0)[:, ADS].min() > 0.6
    np.testing.assert_allclose(watched.show(50, 12.0, 0.0), 0.5, atol=0.06)


def test_what_was_like_it_does_not_outvote_a_sure_network(watched):
    assert watched.show(0, 12.0, 4.0)[:, ADS].min() > 0.85


def test_what_was_before_a_gap_is_not_shown_now_but_still_speaks(watched):
    watched.windows.clear()
    assert watched.windows.seconds == 0.0
    watched.now += 300.0
    said = watched.show(50, 1.5, 3.0)
    assert watched.windows.seconds == 1.5
    # The longest window is hardly known; the shortest is full.
    assert 0.5 < said[0, ADS] < 0.65
    assert np.all(np.diff(said[:, ADS]) > 0)
    assert said[-1, ADS] > 0.9
    assert watched.show(12, 12.0, 0.0)[:, ADS].min() > 0.6


def test_sound_of_before_a_gap_is_not_heard_now():
    watched = Watched()
    frames = np.zeros((2, *SPEC.frame_size, 3), np.uint8)
    sound = (SoundRows(0.0, np.zeros((16, SPEC.mfcc.n_mfcc), np.float16)),)
    watched.windows.take(StreamBlock(0.0, frames, sound, 0.0, 0.0, 0))
    watched.windows.judge()
    assert watched.network.heard.all()
    watched.windows.clear()
    watched.windows.take(StreamBlock(0.5, frames, (), 0.5, 0.0, 0))
    watched.windows.judge()
    assert not watched.network.heard.any()


@pytest.mark.parametrize("kind", [LateFusionClassifier, LrcnClassifier])
def test_the_network_itself_judges_windows_of_embeddings(kind):
    torch.manual_seed(0)
    network = kind(3, SPEC.mfcc.n_mfcc).eval()
    nn.init.normal_(network.video_head.weight)
    classes = ("ads", "games", "studio")
    trunk = TrunkRuntime(network.video_encoder, engine="torch")
    judge = ArrayNetwork(network, trunk)
    live = Classifier(network, SPEC, classes, clip_seconds=4.0, temperature=2.0)
    windows = LiveWindows(live, judge)
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (16, 36, 64, 3), dtype=np.uint8)
    rows = random.normal(size=(125, 20)).astype(np.float16)
    for k in range(8):
        sound = (SoundRows(k / 2, rows[-(-k * 125 // 8) : -(-(k + 1) * 125 // 8)]),)
        windows.take(StreamBlock(k / 2, frames[2 * k : 2 * k + 2], sound, 0.0, 0.0, 0))
    with torch.inference_mode():
        ones = torch.ones(1, 16, dtype=torch.bool), torch.ones(1, 125, dtype=torch.bool)
        logits = network(
            torch.from_numpy(frames[None]), ones[0], torch.from_numpy(rows[None]), ones[1]
        )
    whole = torch.softmax(logits.double() / 2.0, dim=1)[0].numpy()
    np.testing.assert_allclose(windows.judge()[0], whole, atol=0.02)
