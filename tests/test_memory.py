"""What is freed stays with the process, or goes back to the system."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_used_again_instead_of_fetched_anew():
    program = """
import resource, sys, torch
from utils.memory import keep_freed_memory
keep_freed_memory()
def use():
    return [torch.ones(7 << 20) for _ in range(12)]  # of 28 MB, 86,016 pages in all
use(), use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40_000
    without = [*command[:2], program.replace("\nkeep_freed_memory()", "")]
    done = subprocess.run(without, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_given_back_though_what_came_after_it_is_kept():
    program = """
from utils.memory import return_freed_memory
return_freed_memory()
bytes(4 << 20)  # glibc keeps blocks as large as one that was freed
pairs = [(b"x" * ((4 << 20) - 100), b"y" * 100_000) for _ in range(40)]
kept = [small for large, small in pairs]
del pairs
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""
    command = [sys.executable, "-c", program]
    returned = subprocess.run(command, capture_output=True, text=True, check=True)
    without = [*command[:2], program.replace("\nreturn_freed_memory()", "")]
    left = subprocess.run(without, capture_output=True, text=True, check=True)
    assert int(returned.stdout) < int(left.stdout) - 100_000  # of 160 MB
