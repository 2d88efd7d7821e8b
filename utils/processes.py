"""Processes: spawned workers that start light."""

import sys
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess


class LightProcess(SpawnProcess):
    """A spawned process that does not import the main script again.

    What it runs must live in a module. The training scripts import torch, which takes seconds and
    500 MB, and no worker that decodes a video needs it.
    """

    @staticmethod
    def _Popen(process: BaseProcess) -> object:  # multiprocessing's own hook, its spelling
        main = sys.modules["__main__"].__dict__
        hidden = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
        main["__spec__"] = None
        try:
            return SpawnProcess._Popen(process)
        finally:
            main.update(hidden)


class LightContext(SpawnContext):
    """A context for pools: spawned, since a forked child inherits locks of the parent's threads."""

    Process = LightProcess
