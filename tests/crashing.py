"""Tasks for a worker process that never end well; in a module that a process imports at once."""

import os
import time


def crash(*_: object) -> None:
    """What a decoder does that meets a file which it can't bear."""
    os.abort()


def never_end(*arguments: object) -> None:
    """Reports steps, as labelling does, for a minute."""
    for step in range(600):
        arguments[-1]((step, 600))
        time.sleep(0.1)
