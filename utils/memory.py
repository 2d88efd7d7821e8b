"""Memory: what becomes of that which a process frees."""

import contextlib
import ctypes

# Of <malloc.h>: from which size on memory comes from the system and goes back to it at once, how
# much that is free stays with the process, and how many heaps its threads have between them.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX = -3, -1, -8
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 << 20, 1 << 30  # of the first, the most that there can be
RETURNED_BYTES = 1 << 20


def keep_freed_memory() -> None:
    """Lets this process keep what a training step frees for the next one, with glibc.

    Otherwise each feature map is fetched from the system anew, page by page, which took an eighth
    of the processor's time of benchmarks.train_step.
    """
    _set_malloc({M_MMAP_THRESHOLD: KEPT_BLOCK_BYTES, M_TRIM_THRESHOLD: KEPT_BYTES})


def return_freed_memory() -> None:
    """Lets this process give back what it frees, with glibc; to be called before it has threads.

    Otherwise decoders and networks, each in threads that come and go, leave their largest moment
    behind in heaps of their own: labelling a recording took a sixth more memory.
    """
    _set_malloc(
        {M_ARENA_MAX: 2, M_MMAP_THRESHOLD: RETURNED_BYTES, M_TRIM_THRESHOLD: RETURNED_BYTES}
    )


def _set_malloc(values: dict[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library has other ways
        libc = ctypes.CDLL("libc.so.6")
        for name, value in values.items():
            libc.mallopt(name, value)
