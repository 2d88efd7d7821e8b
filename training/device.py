"""Device: where training runs, in which precision, and from which seed."""

import contextlib
import ctypes

import numpy as np
import torch

# Of <malloc.h>: from which size on memory comes from the system and goes back to it at once, how
# much that is free stays with the process, and how many heaps its threads have between them.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX = -3, -1, -8
KEPT_BLOCK_BYTES, KEPT_BYTES = 32 << 20, 1 << 30  # of the first, the most that there can be
RETURNED_BYTES = 1 << 20


def choose_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"CPU, {torch.get_num_threads()} threads"


def amp_dtype(device: torch.device, mixed_precision: bool) -> torch.dtype | None:
    """bfloat16 where the GPU computes in it, float16 on older ones, None for full precision."""
    if not mixed_precision or device.type != "cuda":
        return None
    # Without the question it says yes for older GPUs too, which emulate it, slowly.
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """A context that runs the network in `dtype`, or as it is for None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def seed_step(*position: int) -> torch.Generator:
    """Seeds torch for one step, and returns a generator of the same seed on the CPU.

    Randomness is a function of (seed, epoch, step): nothing of it has to be saved, and training
    resumed in the middle of an epoch draws what the unbroken run would have drawn.
    """
    number = int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> 1)
    # Not torch.manual_seed: without a GPU it notes a stack trace each time, for later.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
    return torch.Generator().manual_seed(number)


def _set_malloc(values: dict[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library has other ways
        libc = ctypes.CDLL("libc.so.6")
        for name, value in values.items():
            libc.mallopt(name, value)
