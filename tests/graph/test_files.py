"""Files that are no good models are refused by name and with a fix; files are written whole."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxqat.core.errors import ConfigError, ModelError, OnnxqatError
from onnxqat.graph import as_graph, load, prepare, save, structural_diff
from tests.support.onnx_text import model_of

WEIGHT = np.arange(4096, dtype=np.float32).reshape(2, 2048)


def plain(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    return model_of("net (float[2, 2048] x) => (float[2, 2048] y) { y = Add (x, w) }", w=weight)


def written(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    path = folder / "model.onnx"
    path.write_bytes((model or plain()).SerializeToString())
    return path


def outside(folder: Path, location: str, **entries: int) -> Path:
    """A model whose weight lies in another file."""
    model = plain()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return written(folder, model)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.fix
    return caught.value.problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"hello, this is a text file\n", "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG image"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x00" * 100, "not an ONNX model"),
        (b"\x08\x08\x12\x04name", "no ONNX model with a graph"),
    ],
)
def test_a_file_that_is_no_model_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    assert problem in refusal(path)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    for seed in range(50):
        content = np.random.default_rng(seed).integers(0, 256, 300, np.uint8).tobytes()
        path = tmp_path / "model.onnx"
        path.write_bytes(content)

        refusal(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.onnx")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "directory" in refusal(tmp_path)


def test_a_model_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Cutting off no more than the last field, opset_import, leaves a model without opset."""
    whole = written(tmp_path).read_bytes()
    for size in [*range(1, 120), len(whole) // 2, len(whole) - 1]:
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:size])

        refusal(path)


def test_a_truncated_model_is_told_with_its_sizes(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])

    problem = refusal(path)

    assert "truncated" in problem
    assert f"the file has {path.stat().st_size} bytes" in problem


def test_a_model_that_the_checker_rejects_is_refused_with_its_words(tmp_path: Path) -> None:
    model = plain()
    model.graph.node[0].input[0] = "nobody"

    assert "nobody" in refusal(written(tmp_path, model))


@pytest.mark.parametrize("does_say_type", [True, False])
def test_an_output_without_a_shape_or_type_is_read_and_gets_both(does_say_type: bool) -> None:
    model = plain()
    (wanted,) = prepare(as_graph(model)).outputs
    (output,) = model.graph.output
    output.type.tensor_type.ClearField("shape")
    if not does_say_type:
        output.ClearField("type")

    (found,) = prepare(as_graph(model)).outputs

    assert (found.name, found.dtype, list(found.shape)) == (
        wanted.name,
        wanted.dtype,
        list(wanted.shape),
    )


def test_an_input_without_a_shape_is_named() -> None:
    model = plain()
    model.graph.input[0].type.tensor_type.ClearField("shape")

    with pytest.raises(ModelError, match="shape of an input") as caught:
        as_graph(model)
    assert caught.value.tensor == model.graph.input[0].name


def test_a_weight_whose_bytes_do_not_fit_its_shape_is_named(tmp_path: Path) -> None:
    model = plain()
    model.graph.initializer[0].raw_data = b"\0" * 12

    with pytest.raises(ModelError, match="do not fit") as caught:
        load(written(tmp_path, model))
    assert caught.value.tensor == "w"


def test_graphs_nested_deeper_than_protobuf_reads_are_refused_from_a_file(tmp_path: Path) -> None:
    assert "100 nested messages" in str(load_error(written(tmp_path, nested(200))))


def test_graphs_nested_deeply_in_memory_are_refused() -> None:
    with pytest.raises(ModelError, match="more than 30 deep"):
        as_graph(nested(200))


def test_graphs_nested_as_deep_as_allowed_are_read(tmp_path: Path) -> None:
    model = nested(29)

    assert structural_diff(as_graph(model), load(written(tmp_path, model))) == ()


def load_error(path: Path) -> OnnxqatError:
    with pytest.raises(OnnxqatError) as caught:
        load(path)
    return caught.value


def nested(depth: int) -> onnx.ModelProto:
    """If in If in If, built from the outside in: protobuf refuses to copy what is too deep."""
    model = helper.make_model(
        helper.make_graph([], "g", [], []),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = model.graph
    for name, kind in (("x", TensorProto.FLOAT), ("c", TensorProto.BOOL)):
        graph.input.append(helper.make_tensor_value_info(name, kind, [1]))
    for level in range(depth, 0, -1):
        graph.name = f"g{level}"
        graph.output.append(helper.make_tensor_value_info(f"y{level}", TensorProto.FLOAT, [1]))
        node = graph.node.add(op_type="If", name=f"n{level}", input=["c"], output=[f"y{level}"])
        leaf = node.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g
        leaf.name = f"leaf{level}"
        leaf.node.add(op_type="Identity", name=f"e{level}", input=["x"], output=[f"z{level}"])
        leaf.output.append(helper.make_tensor_value_info(f"z{level}", TensorProto.FLOAT, [1]))
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    graph.name = "g0"
    graph.node.add(op_type="Identity", name="n0", input=["x"], output=["y0"])
    graph.output.append(helper.make_tensor_value_info("y0", TensorProto.FLOAT, [1]))
    return model


# External data


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "C:\\w.bin", ""])
def test_external_data_outside_the_model_s_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())

    assert "leaves the model's folder" in refusal(outside(folder, location))


def test_a_link_that_leads_out_of_the_model_s_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")

    assert "leaves the model's folder" in refusal(outside(folder, "w.bin"))


def test_missing_external_data_is_refused_and_the_tensor_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'w.bin' is missing") as caught:
        load(outside(tmp_path, "w.bin"))
    assert caught.value.tensor == "w"


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 4},
        {"offset": 10**12},
        {"length": 8},
        {"length": 2 * WEIGHT.nbytes},
        {"offset": -4},
    ],
    ids=str,
)
def test_external_data_beyond_the_file_or_the_tensor_is_refused(
    tmp_path: Path, entries: dict[str, int]
) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())

    assert "does not fit" in refusal(outside(tmp_path, "w.bin", **entries))


@pytest.mark.parametrize("offset", [0, 4096, 3])
def test_external_data_is_read_from_its_offset(tmp_path: Path, offset: int) -> None:
    (tmp_path / "w.bin").write_bytes(b"\1" * offset + WEIGHT.tobytes() + b"\1" * 5)

    graph = load(outside(tmp_path, "w.bin", offset=offset, length=WEIGHT.nbytes))

    np.testing.assert_array_equal(graph.nodes[0].inputs[1].values, WEIGHT)


def test_external_data_in_a_folder_below_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(WEIGHT.tobytes())

    graph = load(outside(tmp_path, "weights/w.bin"))

    np.testing.assert_array_equal(graph.nodes[0].inputs[1].values, WEIGHT)


def test_a_model_with_external_data_is_saved_with_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    graph = load(outside(tmp_path, "w.bin"))

    save(graph, tmp_path / "out.onnx")

    assert (tmp_path / "out.onnx").stat().st_size < WEIGHT.nbytes
    assert (tmp_path / "out.onnx.data").stat().st_size == WEIGHT.nbytes
    assert structural_diff(graph, load(tmp_path / "out.onnx")) == ()
    np.testing.assert_array_equal(  # ONNX's own reader agrees
        numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]), WEIGHT
    )


def test_a_model_may_be_saved_over_the_files_that_it_was_loaded_from(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(WEIGHT.tobytes())
    graph = load(outside(tmp_path, "model.onnx.data"))

    save(graph, tmp_path / "model.onnx")

    np.testing.assert_array_equal(load(tmp_path / "model.onnx").nodes[0].inputs[1].values, WEIGHT)


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4])
def test_weights_of_any_type_survive_in_a_file_of_their_own(tmp_path: Path, kind: int) -> None:
    model = model_of("net (float[1] x) => (float[1] y) { y = Relu (x) }", opset=21, ir=10)
    model.graph.initializer.append(helper.make_tensor("w", kind, [3, 801], [1, 2, 3] * 801))
    graph = as_graph(model)
    graph.has_external_data = True

    save(graph, tmp_path / "out.onnx")

    (tensor,) = onnx.load(tmp_path / "out.onnx").graph.initializer
    expected = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)
    assert structural_diff(graph, load(tmp_path / "out.onnx")) == ()


def test_packed_external_data_survives(tmp_path: Path) -> None:
    model = model_of("net (float[1] x) => (float[1] y) { y = Relu (x) }", opset=21, ir=10)
    packed = helper.make_tensor("codes", TensorProto.INT4, [5], [1, -8, 7, 0, 3])
    (tmp_path / "w.bin").write_bytes(packed.raw_data or bytes(packed.int32_data))
    packed.ClearField("int32_data")
    packed.ClearField("raw_data")
    packed.data_location = TensorProto.EXTERNAL
    packed.external_data.add(key="location", value="w.bin")
    model.graph.initializer.append(packed)

    graph = load(written(tmp_path, model))

    assert graph.held[0].values.astype(int).tolist() == [1, -8, 7, 0, 3]


def test_a_model_in_memory_cannot_have_external_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    proto = onnx.load(outside(tmp_path, "w.bin"), load_external_data=False)

    with pytest.raises(ModelError, match="in another file"):
        as_graph(proto)


# Writing


def test_saving_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        save(as_graph(plain()), tmp_path / "none" / "model.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_saving_into_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot write"):
            save(as_graph(plain()), tmp_path / "model.onnx")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("external", [False, True])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, external: bool
) -> None:
    """The file size limit stands for a full disk."""
    graph = as_graph(plain(np.ones((2, 2048), np.float32)))
    graph.has_external_data = external
    save(graph, tmp_path / "model.onnx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    script = f"""
import resource, signal, sys
from onnxqat.core.errors import ModelError
from onnxqat.graph import load, save
graph = load({str(tmp_path / "model.onnx")!r})
graph.nodes[0].inputs[1].name = "other"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    save(graph, {str(tmp_path / "model.onnx")!r})
except ModelError as error:
    sys.exit(7)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in (-1, resource.RLIM_INFINITY)

    done = subprocess.run([sys.executable, "-c", script], check=False)

    assert done.returncode == 7
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_importing_the_graph_stage_does_not_import_torch() -> None:
    script = "import sys, onnxqat.graph; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
