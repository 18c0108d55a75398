"""Memory that is freed between training steps stays in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource, sys, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: with huge pages chance decides
from onnxqat.bridge.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
def step():
    tensors = [torch.zeros(1 << 21) for _ in range(4)]
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> tuple[bool, int]:
    run = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True
    )
    kept, count = run.stdout.split()
    return kept == "1", int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_later_steps_take_no_page_faults() -> None:
    kept, with_it = faults("keep")
    if not kept:
        pytest.skip("another C library than glibc")
    _, without = faults("leave")
    assert with_it * 10 < without
