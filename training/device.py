"""Device: where training runs, in which precision, and from which seed."""

import numpy as np
import torch


def choose_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
