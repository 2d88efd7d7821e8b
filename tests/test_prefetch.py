"""What comes next is made while what is there is used."""

import time

import pytest

from tests.steady import wait_until
from tests.test_dataset import assert_no_thread_is_left
from utils.prefetch import ITEMS_AHEAD, prefetch


def test_gives_all_items_in_order_and_ends():
    assert list(prefetch(iter(range(100)))) == list(range(100))
    assert list(prefetch(iter(()))) == []
    assert_no_thread_is_left()


def test_works_ahead_and_not_far():
    made = []

    def items():
        for k in range(50):
            made.append(k)
            yield k

    ahead = prefetch(items())
    assert next(ahead) == 0
    wait_until(lambda: len(made) >= 2 + ITEMS_AHEAD)
    time.sleep(0.15)
    assert len(made) == 2 + ITEMS_AHEAD  # one taken, the queue full, one in the hand
    ahead.close()
    assert_no_thread_is_left()


def test_error_while_prefetching_is_raised_where_the_items_are_used():
    def items():
        yield 1
        raise OSError("the disk went away")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk went away"):
        next(ahead)
    assert_no_thread_is_left()
