"""Cross-validation: the network of a finished training learned again, on parts of the clips."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from training.device import seed_step
from training.embedding import MemoryStore
from training.evaluation import ClipScores
from training.loop import Trainer
from training.phases import Phase
from training.scores import embed_dataset, score_clips
from utils.clips import Clip, group_folds
from utils.dataset import ClipDataset
from utils.duplicates import Duplicates
from utils.feature_store import FeatureStore

AUTO_FOLDS = 5
HALVES = {"": None, "video_only": "sound", "sound_only": "video"}  # name: the half that is hidden

Sides = tuple[list[Clip], list[Clip]]  # to learn from, to judge


@dataclass(frozen=True)
class Retraining:
    """A finished training, and what it takes to train its network again from the start.

    Where the trunk stayed frozen, only new heads are trained, on the embeddings there are: that
    takes seconds. Else `new_model` gives the network as it was before training, and all phases
    are gone through. `left_out` are clips that training did without because validation shows the
    same content; each fold does without its own twins instead.
    """

    trainer: Trainer
    phases: list[Phase]
    new_model: Callable[[], nn.Module]
    duplicates: Duplicates = field(default_factory=lambda: Duplicates([]))
    left_out: Sequence[Clip] = ()

    @property
    def clips(self) -> list[Clip]:
        """Of both sides, and those that were left out."""
        return [*self.trainer.train_set.clips, *self.trainer.val_set.clips, *self.left_out]

    def folds(self) -> list[Sides]:
        """Pairs in which every group is judged once; [] where the held-out clips judge alone.

        That is what the user's own validation set does, and with FOLDS "auto" also a trunk that
        learned, since it would have to be trained anew for each.
        """
        config = self.trainer.config
        if any(clip.recording.validation for clip in self.trainer.val_set.clips):
            return []
        auto = AUTO_FOLDS if self.trainer.trunk_is_frozen else 0
        count = auto if config.folds == "auto" else int(config.folds)
        if not count:
            return []
        return [
            (self.duplicates.part_twins(learned, judged)[0], judged)
            for learned, judged in group_folds(self.clips, count, config.seed)
        ]

    def train(self, clips: list[Clip]) -> nn.Module:
        """The network, trained to the last epoch on `clips` alone."""
        if self.trainer.trunk_is_frozen:
            return new_heads(self.trainer, clips, self.trainer.embeddings)
        seed_step(self.trainer.config.seed)
        model = self.new_model().to(self.trainer.device)
        return _fit(self.trainer, model, clips, self.trainer.embeddings, self.phases)

    def embedded(self, model: nn.Module, clips: list[Clip]) -> ClipDataset:
        """These clips as the trunk of `model` sees them."""
        if self.trainer.trunk_is_frozen:
            return self.trainer.val_set.only(clips).read_from(self.trainer.embeddings)
        dataset = self.trainer.train_set.only(clips)
        return embed_dataset(model, dataset, self.trainer.amp, title="embed")


def new_heads(
    trainer: Trainer, clips: list[Clip], embeddings: FeatureStore | MemoryStore
) -> nn.Module:
    """A model with the trunk as it is, and heads trained anew on `clips` to the last epoch."""
    config = trainer.config
    model = copy.deepcopy(trainer.model)
    seed_step(config.seed)
    model.reset_heads()
    heads = Phase("heads", 0, config.epochs, 0, config.frozen_draws)
    return _fit(trainer, model, clips, embeddings, [heads])


def score_halves(model: nn.Module, dataset: ClipDataset) -> dict[str, ClipScores]:
    """Scores by name of HALVES: by both, by the picture alone, by the sound where there is one.

    Of a model without sound there is one, by "".
    """
    if not model.uses_sound:
        return {"": score_clips(model, dataset)}
    with_sound = [clip for clip in dataset.clips if dataset.store.num_rows(clip.key, "mfcc")]
    return {
        name: score_clips(
            model, dataset.only(with_sound) if hidden == "video" else dataset, hide=hidden
        )
        for name, hidden in HALVES.items()
    }


def join_scores(parts: Sequence[ClipScores]) -> ClipScores:
    """The clips of all parts, one after another."""
    return ClipScores(
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        recordings=[name for part in parts for name in part.recordings],
        groups=[name for part in parts for name in part.groups],
        start_seconds=np.concatenate([part.start_seconds for part in parts]),
        end_seconds=np.concatenate([part.end_seconds for part in parts]),
    )


def draw_groups(clips: list[Clip], share: float, draws: int, seed: int) -> Iterator[list[Clip]]:
    """`draws` random subsets of clips: `share` of the groups of each class, one at least."""
    groups: dict[str, set[str]] = {}
    for clip in clips:
        groups.setdefault(clip.label, set()).add(clip.recording.group)
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        kept = set()
        for label in sorted(groups):
            names = sorted(groups[label])
            count = max(1, round(share * len(names)))
            kept |= {(label, names[i]) for i in rng.permutation(len(names))[:count]}
        yield [clip for clip in clips if (clip.label, clip.recording.group) in kept]


def _fit(
    trainer: Trainer,
    model: nn.Module,
    clips: list[Clip],
    embeddings: FeatureStore | MemoryStore | None,
    phases: list[Phase],
) -> nn.Module:
    """The model after the phases on `clips`, without a validation set: its last weights."""
    train_set = trainer.train_set.only(clips)
    other = Trainer(model, train_set, None, trainer.config, embeddings=embeddings)
    other.fit(phases)
    return model
