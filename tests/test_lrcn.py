"""LRCN: the order of a clip's frames counts, and nothing that is not a frame of it does."""

import numpy as np
import pytest
import torch

from models.encoders import pool_mean_std
from models.lrcn import LrcnClassifier, spread
from tests.trainings import fill_norms, make_config
from training.loop import Trainer
from training.phases import plan_phases
from training.scores import embed_dataset, score_clips
from training.weights import new_model
from utils.demo_motion import TWO_ORDERS, make_motion_sets

N_MFCC = 6
SIZE = 24
LENGTHS = [(5, 40), (9, 0), (2, 7), (0, 3)]
KINDS = {
    "averaged": {},
    "last": {"average_over_time": False, "lstm_layers": 2},
    "picture": {"fuse_sound": False},
    "no lstm": {"lstm_layers": 0},
    "conv": {"encoder": "conv"},
}


def make_model(**sizes: object) -> LrcnClassifier:
    torch.manual_seed(0)
    model = LrcnClassifier(3, N_MFCC, **{"lstm_size": SIZE, "sequence_frames": 6, **sizes}).eval()
    embeddings = torch.rand(40, 2 * model.video_encoder.embedding_size)
    model.set_statistics(embeddings, (torch.zeros(N_MFCC), 5 * torch.ones(N_MFCC)))
    return model


@pytest.fixture(params=KINDS)
def model(request) -> LrcnClassifier:
    return make_model(**KINDS[request.param])


def make_batch(model: LrcnClassifier, lengths: list[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
    """Embeddings, their mask, MFCC and their mask; each clip has (frames, MFCC steps)."""
    generator = torch.Generator().manual_seed(1)
    longest = [max(*sizes, 1) for sizes in zip(*lengths, (0, 0), strict=True)]
    size = model.video_encoder.embedding_size
    video = torch.rand((len(lengths), longest[0], size), generator=generator)
    mfcc = 5 * torch.randn((len(lengths), longest[1], N_MFCC), generator=generator)
    masks = [
        torch.arange(longest[half]) < torch.tensor([clip[half] for clip in lengths])[:, None]
        for half in (0, 1)
    ]
    return video, masks[0], mfcc, masks[1]


def test_logits_depend_on_no_other_clip_and_no_padding(model):
    video, video_mask, mfcc, mfcc_mask = make_batch(model, LENGTHS)
    together = model(video, video_mask, mfcc, mfcc_mask)
    for index, (frames, steps) in enumerate(LENGTHS):
        frames, steps = max(frames, 1), max(steps, 1)
        one = slice(index, index + 1)
        alone = model(
            video[one, :frames], video_mask[one, :frames], mfcc[one, :steps], mfcc_mask[one, :steps]
        )
        torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)
    video[~video_mask] = torch.nan
    mfcc[~mfcc_mask] = 1e4
    assert torch.equal(model(video, video_mask, mfcc, mfcc_mask), together)


def test_frames_between_others_may_be_missing(model):
    video, _, mfcc, mfcc_mask = make_batch(model, [(9, 4)])
    shown = torch.tensor([0, 2, 3, 7])
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[:, shown] = True
    found = model(video, mask, mfcc, mfcc_mask)
    expected = model(video[:, shown], mask[:, shown], mfcc, mfcc_mask)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_frames_counts_where_there_is_an_lstm(kind):
    model = make_model(**KINDS[kind])
    video, video_mask, mfcc, mfcc_mask = make_batch(model, [(6, 4)])
    logits = model(video, video_mask, mfcc, mfcc_mask)
    mirrored = model(video.flip(1), video_mask, mfcc, mfcc_mask)
    assert torch.allclose(mirrored, logits, atol=1e-6) == (kind == "no lstm")


def test_answer_is_the_mean_of_the_answers_after_each_frame():
    model = make_model(fuse_sound=False)
    batch = make_batch(model, [(6, 1)])
    with torch.inference_mode():
        states, _ = model.lstm(model.project(batch[0]))
        each = model.video_head(states[0])
        torch.testing.assert_close(model(*batch)[0], each.mean(dim=0))
        model.average_over_time = False
        torch.testing.assert_close(model(*batch)[0], each[-1])


def test_frames_give_what_their_embeddings_give(model):
    fill_norms(model.video_encoder)
    frames = torch.randint(0, 256, (2, 8, 32, 48, 3), dtype=torch.uint8)
    _, video_mask, mfcc, mfcc_mask = make_batch(model, [(8, 9), (2, 4)])
    with torch.inference_mode():
        embeddings = model.video_encoder(frames.flatten(0, 1)).unflatten(0, (2, 8))
        expected = model(embeddings, video_mask, mfcc, mfcc_mask)
        found = model(frames, video_mask, mfcc, mfcc_mask)
        half = model(embeddings.half(), video_mask, mfcc, mfcc_mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)


def test_mixed_precision_gives_about_the_same_and_learns(model):
    batch = make_batch(model, LENGTHS)
    expected = model(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*batch)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert model.frame_projection[1].weight.grad.isfinite().all()


def test_windows_give_what_clips_give(model):
    video, video_mask, mfcc, mfcc_mask = make_batch(model, LENGTHS)
    sound = pool_mean_std(model.encode_audio(mfcc), mfcc_mask) if model.uses_sound else mfcc
    has_sound = mfcc_mask.any(dim=1)
    found = model.forward_windows(model.project(video), video_mask, sound, has_sound)
    expected = model(video, video_mask, mfcc, mfcc_mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_features_lead_to_the_logits_and_halves_add_up(model):
    batch = make_batch(model, LENGTHS)
    features = model.forward_features(*batch)
    assert features.shape == (4, SIZE + 16 * model.uses_sound)
    halves = model.forward_halves(features)
    assert len(halves) == 1 + model.uses_sound
    torch.testing.assert_close(sum(halves), model.forward_head(features))
    assert torch.equal(model.forward_head(features), model(*batch))


def test_missing_picture_leaves_the_word_to_the_sound():
    model = make_model()
    features = model.forward_features(*make_batch(model, [(0, 9)]))
    video_logits, sound_logits = model.forward_halves(features)
    assert video_logits.abs().max() == 0
    assert sound_logits.abs().max() > 1e-3


def test_sound_counts_only_where_it_is_fused(model):
    video, video_mask, mfcc, mfcc_mask = make_batch(model, [(5, 9)])
    heard = model(video, video_mask, mfcc, mfcc_mask)
    mute = model(video, video_mask, mfcc, mfcc_mask & False)
    assert torch.equal(heard, mute) != model.uses_sound


def test_everything_but_a_missing_lstm_learns_and_stays_finite(model):
    model.train()
    model(*make_batch(model, LENGTHS))[:, 0].sum().backward()
    heads = [p for n, p in model.named_parameters() if not n.startswith("video_encoder")]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads)
    assert model.frame_projection[1].weight.grad.abs().sum() > 0


def test_statistics_are_those_of_single_frames():
    model = make_model(lstm_layers=0)
    torch.manual_seed(0)
    frames = (2 + torch.randn(200, 1, 1280)) + 3 * torch.randn(200, 16, 1280)
    frames[:, :, 0] = 7.0  # a feature that never changes must not be blown up
    mask = torch.ones(200, 16, dtype=torch.bool)
    model.set_statistics(pool_mean_std(frames, mask), None)
    torch.testing.assert_close(model.video_mean, frames.flatten(0, 1).mean(0), rtol=1e-3, atol=1e-3)
    std = frames.flatten(0, 1).std(0)
    torch.testing.assert_close(
        model.video_std[1:] / std[1:], torch.full((1279,), 1.1), rtol=0.05, atol=0
    )
    assert model.video_std[0] > 0.05


def test_new_heads_forget_everything_but_the_encoder(model):
    torch.manual_seed(7)
    model.reset_heads()
    first = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("video_encoder"):
                parameter.fill_(3.0)
    torch.manual_seed(7)
    model.reset_heads()
    assert all(t.equal(first[name]) for name, t in model.state_dict().items())


def test_spread_takes_evenly_spaced_steps_of_those_there_are():
    mask = torch.zeros(4, 10, dtype=torch.bool)
    mask[0] = True
    mask[1, [1, 4, 5]] = True
    mask[2, 2:7] = True
    places, lengths = spread(mask, 4)
    assert lengths.tolist() == [4, 3, 4, 0]
    assert places[0].tolist() == [1, 3, 6, 8]
    assert places[1, :3].tolist() == [1, 4, 5]
    assert places[2].tolist() == [2, 3, 5, 6]
    for count in range(1, 60):
        (row,), (length,) = spread(torch.ones(1, count, dtype=torch.bool), 16)
        assert length == len(row) == min(count, 16)
        gaps = np.diff(row.numpy())
        assert (gaps > 0).all()
        assert np.ptp(gaps) <= 1 if len(gaps) else True
        assert abs(row[0] - (count - 1 - row[-1])) <= 1  # as much is left out at either end


def test_unknown_encoder_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'vgg': it is one of conv, mobilenet_v2"):
        LrcnClassifier(2, N_MFCC, encoder="vgg")


def test_lstm_learns_what_only_the_order_tells_and_a_mean_can_not(tmp_path):
    accuracy = {}
    for layers in (0, 1):
        config = make_config(
            tmp_path,
            **{"model": "lrcn", "encoder": "conv", "lstm_layers": layers, "fuse_sound": False},
            **{"epochs": 7, "patience": 7, "dropout": 0, "scratch_learning_rate": 0.003, "fps": 4},
        )
        train_set, val_set = make_motion_sets(
            config.feature_spec, config.cache_dir, TWO_ORDERS, scenes=48
        )
        model = new_model(config, 2, None)
        trainer = Trainer(model, train_set, val_set, config)
        trainer.fit(plan_phases(config, from_scratch=True, has_gpu=False))
        scores = score_clips(model, embed_dataset(model, val_set, None))
        accuracy[layers] = (scores.logits.argmax(axis=1) == scores.labels).mean()
    assert accuracy[1] >= 0.95
    assert accuracy[0] <= 0.6
