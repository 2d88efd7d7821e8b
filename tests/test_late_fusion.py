"""Late fusion: a clip's answer is its own, and either half gives one."""

import pytest
import torch
import torch.nn.functional as F

from models.encoders import pool_mean_std
from models.late_fusion import VIDEO_SIZE, Dropout, LateFusionClassifier
from models.mobilenet_v2 import EMBEDDING_SIZE
from tests.trainings import fill_heads, fill_norms

N_MFCC = 6


@pytest.fixture
def model() -> LateFusionClassifier:
    torch.manual_seed(0)
    model = LateFusionClassifier(3, N_MFCC).eval()
    fill_norms(model.video_encoder)
    fill_heads(model)
    return model


def make_batch(lengths: list[tuple[int, int]], seed: int = 1) -> tuple[torch.Tensor, ...]:
    """Embeddings, their mask, MFCC and their mask; each clip has (frames, MFCC steps)."""
    generator = torch.Generator().manual_seed(seed)
    longest = [max(*sizes, 1) for sizes in zip(*lengths, (0, 0), strict=True)]
    video = torch.rand((len(lengths), longest[0], EMBEDDING_SIZE), generator=generator)
    mfcc = 5 * torch.randn((len(lengths), longest[1], N_MFCC), generator=generator)
    masks = [
        torch.arange(longest[half]) < torch.tensor([clip[half] for clip in lengths])[:, None]
        for half in (0, 1)
    ]
    return video, masks[0], mfcc, masks[1]


def test_logits_depend_on_no_other_clip_and_no_padding(model):
    video, video_mask, mfcc, mfcc_mask = make_batch([(5, 40), (9, 0), (2, 7)])
    together = model(video, video_mask, mfcc, mfcc_mask)
    for index, (frames, steps) in enumerate([(5, 40), (9, 0), (2, 7)]):
        steps = max(steps, 1)  # a batch of clips without sound has one masked step
        one = slice(index, index + 1)
        alone = model(
            video[one, :frames], video_mask[one, :frames], mfcc[one, :steps], mfcc_mask[one, :steps]
        )
        torch.testing.assert_close(alone, together[one], rtol=1e-4, atol=1e-5)
    video[~video_mask] = 1e4
    mfcc[~mfcc_mask] = 1e4
    torch.testing.assert_close(model(video, video_mask, mfcc, mfcc_mask), together)


def test_frames_give_what_their_embeddings_give(model):
    frames = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    _, video_mask, mfcc, mfcc_mask = make_batch([(3, 9), (2, 4)])
    with torch.inference_mode():
        embeddings = model.encode_video(frames)
        assert embeddings.shape == (2, 3, EMBEDDING_SIZE)
        torch.testing.assert_close(
            model(frames, video_mask, mfcc, mfcc_mask),
            model(embeddings, video_mask, mfcc, mfcc_mask),
        )


def test_no_sound_is_not_silence_and_not_any_sound(model):
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9)])
    none = model.forward_features(video, video_mask, mfcc, mfcc_mask & False)
    silence = model.forward_features(video, video_mask, torch.zeros_like(mfcc), mfcc_mask)
    torch.testing.assert_close(none[:, VIDEO_SIZE:], model.no_sound)
    assert not torch.allclose(none[:, VIDEO_SIZE:], silence[:, VIDEO_SIZE:])
    torch.testing.assert_close(none[:, :VIDEO_SIZE], silence[:, :VIDEO_SIZE])


def test_missing_picture_leaves_the_word_to_the_sound(model):
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9)])
    seen, other = (
        model.forward_features(frames, video_mask & False, mfcc, mfcc_mask)
        for frames in (video, 9 * video)
    )
    torch.testing.assert_close(seen, other)
    video_logits, sound_logits = model.forward_halves(seen)
    assert video_logits.abs().max() < 1e-6
    assert sound_logits.abs().max() > 1e-3


def test_no_sound_is_learned(model):
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9), (4, 0), (0, 9)])
    model(video, video_mask, mfcc, mfcc_mask)[:, 0].sum().backward()
    assert model.no_sound.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_halves_add_up_to_the_whole(model):
    features = model.forward_features(*make_batch([(4, 9), (3, 0), (0, 5)]))
    video, sound = model.forward_halves(features)
    whole = model.forward_head(features)
    torch.testing.assert_close(video + sound, whole)


def test_each_half_speaks_for_itself(model):
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9)])
    said = model.forward_halves(model.forward_features(video, video_mask, mfcc, mfcc_mask))
    other = model.forward_halves(model.forward_features(video + 1, video_mask, mfcc, mfcc_mask))
    assert not torch.allclose(said[0], other[0])
    torch.testing.assert_close(said[1], other[1])


def test_statistics_make_the_training_set_standard(model):
    pooled = 2 + torch.rand(400, VIDEO_SIZE)
    pooled[:, 0] = 1.5  # a feature that never changes must not be blown up
    model.set_statistics(pooled, None)
    frame, there = pooled[:, None, :EMBEDDING_SIZE], torch.ones(400, 1, dtype=torch.bool)
    features = model.forward_features(frame, there, torch.zeros(400, 1, N_MFCC), there)
    means = features[:, 1:EMBEDDING_SIZE]
    assert means.mean(dim=0).abs().max() < 0.5
    assert means.std().item() == pytest.approx(1, abs=0.2)
    assert features.isfinite().all()


def test_statistics_can_be_given_for_one_half(model):
    before = model.video_mean.clone(), model.video_std.clone()
    model.set_statistics(None, (torch.randn(N_MFCC), torch.rand(N_MFCC)))
    assert model.video_mean.equal(before[0])
    assert model.video_std.equal(before[1])


def test_pictures_that_are_all_the_same_give_an_answer(model):
    # As those of a trunk do that has learned nothing yet.
    model.set_statistics(torch.full((40, VIDEO_SIZE), 0.5), None)
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9)])
    assert model(torch.full_like(video, 0.5), video_mask, mfcc, mfcc_mask).isfinite().all()
    assert model(video, video_mask, mfcc, mfcc_mask).isfinite().all()


def hidden_halves(model: LateFusionClassifier, *batch: torch.Tensor) -> torch.Tensor:
    """(B, 2) bool: whose picture and whose sound the model was not shown."""
    features = model.forward_features(*batch)
    missing_picture = model.forward_features(batch[0], batch[1] & False, *batch[2:])
    halves = [
        (features[:, :VIDEO_SIZE], missing_picture[:, :VIDEO_SIZE]),
        (features[:, VIDEO_SIZE:], model.no_sound),
    ]
    return torch.stack([(half == missing).all(dim=1) for half, missing in halves], dim=1)


def test_modality_dropout_hides_one_half_at_a_time_and_only_in_training(model):
    model.modality_dropout = 0.5
    video, video_mask, mfcc, mfcc_mask = make_batch([(1, 1)] * 1000)
    assert not hidden_halves(model, video, video_mask, mfcc, mfcc_mask).any()
    model.train()
    hidden = hidden_halves(model, video, video_mask, mfcc, mfcc_mask)
    assert not hidden.all(dim=1).any()
    assert 0.3 < hidden[:, 1].float().mean() < 0.7
    assert 0.1 < hidden[:, 0].float().mean() < 0.4
    without_sound = hidden_halves(model, video, video_mask, mfcc, mfcc_mask & False)
    assert not without_sound[:, 0].any()


def test_either_half_alone_answers_after_training():
    torch.manual_seed(0)
    model = LateFusionClassifier(2, N_MFCC, sound_size=8)
    labels = torch.arange(40) % 2
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9)] * 40)
    video[:, :, :40] += labels[:, None, None]
    mfcc += 4 * labels[:, None, None]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.ndim > 0], 3e-3)
    model.train()
    for _ in range(60):
        loss = F.cross_entropy(model(video, video_mask, mfcc, mfcc_mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    nothing = torch.zeros_like(video_mask), torch.zeros_like(mfcc_mask)
    for masks in ((video_mask, mfcc_mask), (video_mask, nothing[1]), (nothing[0], mfcc_mask)):
        said = model(video, masks[0], mfcc, masks[1]).argmax(dim=1)
        assert (said == labels).float().mean() > 0.9


def test_new_heads_forget_everything_but_the_trunk(model):
    torch.manual_seed(7)
    model.reset_heads()
    first = {name: t.clone() for name, t in model.state_dict().items()}
    fill_heads(model)
    torch.manual_seed(7)
    model.reset_heads()
    assert all(t.equal(first[name]) for name, t in model.state_dict().items())
    torch.manual_seed(8)
    model.reset_heads()
    changed = {name for name, t in model.state_dict().items() if not t.equal(first[name])}
    assert changed
    assert not any(name.startswith("video_encoder") for name in changed)


def test_features_of_half_precision_are_taken(model):
    video, video_mask, mfcc, mfcc_mask = make_batch([(4, 9)])
    exact = model(video, video_mask, mfcc, mfcc_mask)
    half = model(video.half(), video_mask, mfcc.half(), mfcc_mask)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.95])
def test_dropout_hides_its_part_and_keeps_the_mean(p):
    torch.manual_seed(0)
    dropout = Dropout(p)
    x = torch.ones(300, 501, requires_grad=True)
    y = dropout(x)
    hidden = (y == 0).float()
    assert float(hidden.mean()) == pytest.approx(p, abs=5e-3)
    assert float(hidden.mean(dim=0).std()) < 0.05  # no column is preferred, whatever byte decides
    assert float(y.detach().mean()) == pytest.approx(1, abs=0.03)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert not torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_pooled_embeddings_say_what_the_embeddings_say():
    torch.manual_seed(0)
    model = LateFusionClassifier(2, 20).eval()
    fill_heads(model)
    video, mask = torch.rand(3, 6, 1280), torch.arange(6) < torch.tensor([[6], [2], [0]])
    sound = torch.randn(3, 5, 20), torch.ones(3, 5, dtype=torch.bool)
    pooled = pool_mean_std(video, mask)
    assert torch.equal(model(pooled, mask, *sound), model(video, mask, *sound))
