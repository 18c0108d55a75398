"""ONNX Runtime on graphs of any size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxqat.calibration import runtime
from onnxqat.calibration.runtime import TensorReader
from onnxqat.graph import as_graph
from tests.graph.test_large import GIGABYTES, SIDE, write_large
from tests.support.bridge import runtime as reference
from tests.support.nets import images, residual_net


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["through files", "in memory"])
def test_a_model_of_either_size_gives_the_same_tensors(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_SERIALIZABLE", limit)
    reader = TensorReader(as_graph(residual_net()), ["block_out", "logits", "image"])
    feeds = {"image": images(3)}
    found = reader(feeds)
    assert set(found) == {"block_out", "logits", "image"}
    (logits,) = reference(residual_net(), feeds)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    assert found["image"] is feeds["image"]


SCRIPT = """
import sys
import numpy as np
from onnxqat.calibration.runtime import TensorReader
from onnxqat.graph import load, prepare

reader = TensorReader(prepare(load(sys.argv[1])), ["h1"], threads=1)
reader({"x": np.ones((2, SIDE), np.float32)})
lines = open("/proc/self/status").read().splitlines()
sizes = {line.split()[0]: line.split()[1] for line in lines if line.endswith(" kB")}
print(*(int(sizes[name]) / 1e6 for name in ("VmHWM:", "RssAnon:")))  # from kB
"""


@pytest.mark.slow  # writes and reads 3.2 GB
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_weights_are_only_mapped_from_files(tmp_path: Path) -> None:
    """Pages of mapped files count as resident, but the system takes them back where it must.

    So what the process has for itself stays small, and no two copies are ever resident.
    """
    path = write_large(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("SIDE", str(SIDE)), str(path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    peak, own = map(float, done.stdout.split())
    assert own < 0.3
    assert peak < GIGABYTES + 0.5
