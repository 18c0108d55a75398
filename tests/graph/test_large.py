"""Models beyond 2 GB: their weights are mapped, never copied, and saved outside the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxqat.core.errors import ModelError
from onnxqat.graph import as_graph, files, load, save, structural_diff
from tests.support.onnx_text import model_of

SIDE, LAYERS = 8192, 12
GIGABYTES = LAYERS * SIDE * SIDE * 4 / 1e9


def write_large(folder: Path) -> Path:
    """12 MatMuls with 3.2 GB of weights in a file that is one hole, which takes no disk."""
    nodes, weights, names = [], [], ["x", *[f"h{i}" for i in range(LAYERS)]]
    for i in range(LAYERS):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": "w.bin", "offset": i * SIDE * SIDE * 4, "length": SIDE * SIDE * 4}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"m{i}"))
    ends = [helper.make_tensor_value_info(n, 1, ["n", SIDE]) for n in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    with (folder / "w.bin").open("wb") as stream:
        stream.truncate(LAYERS * SIDE * SIDE * 4)
    return folder / "large.onnx"


PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"


def peak_megabytes(script: str) -> int:
    """Peak memory of a process of its own that runs a script."""
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{PEAK}"], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_a_large_model_is_loaded_and_prepared_without_reading_its_weights(tmp_path: Path) -> None:
    path = write_large(tmp_path)
    idle = peak_megabytes("import onnxqat.graph")

    used = peak_megabytes(f"from onnxqat.graph import load, prepare\nprepare(load({str(path)!r}))")

    assert GIGABYTES > 3
    assert used < idle + 50


SAMPLED = """
import re, threading
peak, done = 0, threading.Event()
def look():
    global peak
    while not done.wait(0.002):
        with open("/proc/self/status") as status:
            peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1]) // 1024)
thread = threading.Thread(target=look)
thread.start()
{script}
done.set()
thread.join()
print(peak)
"""


def peak_anonymous_megabytes(script: str) -> int:
    """Peak memory without the mapped pages of files, which the system reads ahead as it likes."""
    done = subprocess.run(
        [sys.executable, "-c", SAMPLED.replace("{script}", script)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own figures")
def test_a_large_model_is_saved_without_copying_a_weight_into_memory(tmp_path: Path) -> None:
    path = write_large(tmp_path)

    used = peak_anonymous_megabytes(
        "from onnxqat.graph import load, save\n"
        f"save(load({str(path)!r}), {str(tmp_path / 'out.onnx')!r})"
    )

    assert used < 100, "a weight alone has 268 MB"
    assert (tmp_path / "out.onnx.data").stat().st_size == LAYERS * SIDE * SIDE * 4


def test_weights_beyond_the_limit_go_into_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "EXTERNAL_FROM", 5000)
    small, large = np.ones((2, 100), np.float32), np.ones((100, 100), np.float32)
    text = "g (float[n, 2] x) => (float[n, 100] y) { a = MatMul (x, v)  y = MatMul (a, w) }"
    graph = as_graph(model_of(text, v=small, w=large))

    save(graph, tmp_path / "model.onnx")

    places = {
        tensor.name: tensor.data_location
        for tensor in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    }
    assert places == {"v": TensorProto.DEFAULT, "w": TensorProto.EXTERNAL}
    again = load(tmp_path / "model.onnx")
    assert structural_diff(graph, again) == ()
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)


def test_a_file_beyond_what_protobuf_reads_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)

    with pytest.raises(ModelError, match=r"larger than 2 GiB(.|\n)*external data"):
        load(path)
