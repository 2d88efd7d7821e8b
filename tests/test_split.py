"""The groups that judge are a function of their names and the seed, and stay where they are."""

import pytest

from pipeline.records import PipelineError
from pipeline.split import MIN_TRAIN_GROUPS, choose_test_groups, too_few_groups
from training.promotion import MIN_GROUPS


def make_groups(**counts: int) -> dict[str, set[str]]:
    return {label: {f"{label}/{i}" for i in range(count)} for label, count in counts.items()}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [5, 6, 9, 40])
def test_every_class_is_judged_and_learned(count, seed):
    groups_of = make_groups(ads=count, games=count + 1, news=5)
    test = choose_test_groups(groups_of, fraction=0.25, seed=seed)
    for groups in groups_of.values():
        assert len(groups & test) >= MIN_GROUPS
        assert len(groups - test) >= MIN_TRAIN_GROUPS


@pytest.mark.parametrize("seed", range(10))
def test_no_group_that_was_learned_from_ever_judges(seed):
    learned: set[str] = set()
    for count in range(40, 100, 6):  # where the fraction alone gives enough of them
        groups_of = make_groups(ads=count, games=2 * count)
        test = choose_test_groups(groups_of, fraction=0.25, seed=seed)
        assert not learned & test
        learned |= set().union(*groups_of.values()) - test


def test_part_that_judges_is_the_fraction():
    test = choose_test_groups(make_groups(ads=400, games=400), fraction=0.25, seed=1)
    assert len(test) == pytest.approx(200, rel=0.2)


def test_seed_chooses_others():
    groups_of = make_groups(ads=40, games=40)
    first, again, other = (
        choose_test_groups(groups_of, fraction=0.3, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_groups_that_show_several_classes_judge_all_of_them():
    both = {f"recordings/{i}" for i in range(6)}
    groups_of = {"ads": both, "games": both | {"games/0"}}
    test = choose_test_groups(groups_of, fraction=0.25, seed=0)
    assert len(both & test) >= MIN_GROUPS
    assert len(both - test) >= MIN_TRAIN_GROUPS


def test_too_few_groups_are_said_with_the_cure():
    groups_of = make_groups(ads=4, games=7)
    line = (
        "ads has 4 groups, and 5 are needed (3 to judge on, 2 to learn from): "
        "add recordings of other sources"
    )
    assert too_few_groups(groups_of) == [line]
    with pytest.raises(PipelineError) as error:
        choose_test_groups(groups_of, fraction=0.25, seed=0)
    assert str(error.value) == line
