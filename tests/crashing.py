"""Tasks for a worker process that never end well; in a module that a process imports at once."""

import os
import time


def crash(*_: object) -> None:
    """What a decoder does that meets a file which it can't bear."""
    os.abort()


def never_end(*arguments: object) -> None:
    """Reports steps, as labelling does, for five minutes."""
    for step in range(3000):
        arguments[-1]((step, 3000))
        time.sleep(0.1)
