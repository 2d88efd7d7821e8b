"""Threads: how many a process should compute with."""

import os

import psutil


def num_threads() -> int:
    """As many as torch takes: OMP_NUM_THREADS, else one for each core that we may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given):
        return int(given)
    has_affinity = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)
