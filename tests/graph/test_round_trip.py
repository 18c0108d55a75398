"""Load and save keep everything that a file says, also what graphsurgeon has no place for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxqat.core.errors import ModelError
from onnxqat.graph import as_graph, load, save, structural_diff, to_model
from tests.support.assets import MODELS, WILD, needs_assets
from tests.support.onnx_text import model_of

PLAIN = "net (float[n, 2] x) => (float[n, 2] y) { y = Add (x, w) }"


def plain() -> onnx.ModelProto:
    return model_of(PLAIN, w=np.float32([1, 2]))


def add_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="author", value="me")


def add_model_fields(model: onnx.ModelProto) -> None:
    model.doc_string, model.domain, model.model_version = "doc", "com.acme", 7
    model.producer_name, model.producer_version = "exporter", "1.2"


def add_graph_metadata(model: onnx.ModelProto) -> None:
    model.graph.doc_string = "graph doc"
    model.graph.metadata_props.add(key="stage", value="3")


def add_node_extras(model: onnx.ModelProto) -> None:
    node = model.graph.node[0]
    node.doc_string, node.overload = "node doc", "v2"
    node.metadata_props.add(key="layer", value="first")


def add_quantization_annotation(model: onnx.ModelProto) -> None:
    annotation = model.graph.quantization_annotation.add(tensor_name="x")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")


def add_dimension_denotation(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.denotation = "TENSOR"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.graph.input[0].doc_string = "the input"


def add_unused_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.int64([3]), "spare"))


def add_initializer_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))


def add_tensor_doc(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].doc_string = "weights"
    model.graph.initializer[0].metadata_props.add(key="origin", value="here")


def add_value_info(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))


def add_training_info(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.name = "sgd"


def add_sparse_initializer(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [5.0])
    indices = helper.make_tensor("s_indices", TensorProto.INT64, [1], [1])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2]))
    model.graph.node.append(helper.make_node("Add", ["y0", "s"], ["y"], name="sparse"))
    model.graph.node[0].output[0] = "y0"


def add_custom_attributes(model: onnx.ModelProto) -> None:
    """Kinds that graphsurgeon skips or cannot write: see its ONNX_PYTHON_ATTR_MAPPING."""
    node = helper.make_node("Odd", ["y0"], ["y"], name="odd", domain="com.acme")
    tensor = numpy_helper.from_array(np.float32([1]), "t")
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    node.attribute.append(AttributeProto(name="none", type=AttributeProto.INTS))
    node.attribute.append(AttributeProto(name="ts", type=AttributeProto.TENSORS, tensors=[tensor]))
    node.attribute.append(AttributeProto(name="tp", type=AttributeProto.TYPE_PROTO, tp=kind))
    node.attribute.append(AttributeProto(name="raw", type=AttributeProto.STRING, s=b"\xff\x00"))
    node.attribute.append(AttributeProto(name="f", type=AttributeProto.FLOAT, f=2, doc_string="d"))
    model.graph.node[0].output[0] = "y0"
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("com.acme", 3))


def add_function(model: onnx.ModelProto) -> None:
    body = helper.make_node("Relu", ["a"], ["b"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], [body], opsets))
    model.graph.node[0].output[0] = "y0"
    model.graph.node.append(helper.make_node("F", ["y0"], ["y"], domain="local", name="call"))
    model.opset_import.append(helper.make_opsetid("local", 1))


def add_sequence(model: onnx.ModelProto) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
    sequence = helper.make_sequence_type_proto(kind)
    model.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["seq"], name="s"))
    model.graph.output.append(helper.make_value_info("seq", sequence))


def add_optional(model: onnx.ModelProto) -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    model.graph.node.append(helper.make_node("Optional", ["w"], ["maybe"], name="o"))
    model.graph.output.append(helper.make_value_info("maybe", kind))


def add_string_constant(model: onnx.ModelProto) -> None:
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"])
    model.graph.initializer.append(words)
    model.graph.node.append(helper.make_node("Identity", ["words"], ["said"], name="say"))
    model.graph.output.append(helper.make_tensor_value_info("said", TensorProto.STRING, [2]))


def add_exotic_weights(model: onnx.ModelProto) -> None:
    for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
        name = TensorProto.DataType.Name(kind)
        model.graph.initializer.append(helper.make_tensor(name, kind, [3], [1, 2, 3]))
    model.ir_version = 10


def add_empty_and_absent(model: onnx.ModelProto) -> None:
    clip = helper.make_node("Clip", ["y0", "", "top"], ["y"], name="clip")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "top"))
    model.graph.node[0].output[0] = "y0"
    model.graph.node.append(clip)


def add_subgraph(model: onnx.ModelProto) -> None:
    """Both branches read an initializer of the outer graph that nothing there reads."""
    branches = {}
    for name, op in (("then_branch", "Add"), ("else_branch", "Mul")):
        nodes = [helper.make_node(op, ["y0", "both"], [name], name=op)]
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])
        branches[name] = helper.make_graph(nodes, name, [], [output])
    model.graph.initializer.append(numpy_helper.from_array(np.float32([5]), "both"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "which"))
    model.graph.node[0].output[0] = "y0"
    model.graph.node.append(helper.make_node("If", ["which"], ["y"], name="if", **branches))


ADDITIONS: list[Callable[[onnx.ModelProto], None]] = [
    value for name, value in list(globals().items()) if name.startswith("add_")
]


def normalized(proto: Any) -> Any:
    """Tensors in one of their equivalent notations, and no order where none has a meaning."""
    if isinstance(proto, onnx.GraphProto):
        for kind in ("input", "value_info", "initializer"):
            entries = sorted(getattr(proto, kind), key=lambda entry: entry.name)
            copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
            proto.ClearField(kind)
            getattr(proto, kind).extend(copies)
    for descriptor, value in proto.ListFields():
        if descriptor.message_type is not None:
            repeated = not hasattr(value, "ListFields")
            for item in value if repeated else [value]:
                normalized(item)
    if isinstance(proto, onnx.TensorProto):
        rewritten = numpy_helper.from_array(numpy_helper.to_array(proto), proto.name)
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "string_data"):
            proto.ClearField(field)
        proto.MergeFrom(rewritten)
        del proto.dims[len(rewritten.dims) :]
    for field in ("domain", "name", "doc_string"):
        if field in proto.DESCRIPTOR.fields_by_name and not getattr(proto, field):
            proto.ClearField(field)  # empty and absent mean the same
    return proto


@pytest.mark.parametrize("add", ADDITIONS, ids=lambda add: add.__name__[4:])
def test_what_a_file_says_survives_load_and_save(
    tmp_path: Path, add: Callable[[onnx.ModelProto], None]
) -> None:
    model = plain()
    add(model)
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())

    save(load(tmp_path / "in.onnx"), tmp_path / "out.onnx")

    saved = onnx.load(tmp_path / "out.onnx")
    assert normalized(saved) == normalized(model)


@pytest.mark.parametrize("add", ADDITIONS, ids=lambda add: add.__name__[4:])
def test_what_a_file_says_survives_a_copy_of_the_graph(
    add: Callable[[onnx.ModelProto], None],
) -> None:
    model = plain()
    add(model)

    copy = as_graph(model).copy()

    assert normalized(to_model(copy)) == normalized(model)


@needs_assets
@pytest.mark.parametrize("path", sorted([*MODELS.glob("*.onnx"), *WILD.glob("*.onnx")]), ids=str)
def test_a_real_model_survives_load_and_save(tmp_path: Path, path: Path) -> None:
    graph = load(path)

    save(graph, tmp_path / "out.onnx")

    assert normalized(onnx.load(tmp_path / "out.onnx")) == normalized(onnx.load(path))
    assert structural_diff(graph, load(tmp_path / "out.onnx")) == ()


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    graph = as_graph(plain())

    save(graph, tmp_path / "one.onnx")
    save(graph.copy(), tmp_path / "two.onnx")

    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_the_model_that_was_given_is_not_changed() -> None:
    model = plain()
    add_subgraph(model)
    before = model.SerializeToString(deterministic=True)

    graph = as_graph(model)
    graph.nodes[0].inputs[1].name = "renamed"
    to_model(graph)

    assert model.SerializeToString(deterministic=True) == before


def test_a_graph_of_graphsurgeon_is_read_and_not_changed() -> None:
    model = plain()
    add_function(model)
    before = model.SerializeToString(deterministic=True)
    theirs = gs.import_onnx(model)
    theirs.nodes[0].inputs[1].name = "renamed"  # graphsurgeon's own export would write to `model`

    graph = as_graph(theirs)

    assert [tensor.name for tensor in graph.nodes[0].inputs] == ["x", "renamed"]
    assert [f.name for f in to_model(graph).functions] == ["F"]
    assert model.SerializeToString(deterministic=True) == before


def test_a_constant_that_two_branches_share_is_written_once() -> None:
    model = plain()
    add_subgraph(model)

    saved = to_model(as_graph(model))

    assert sorted(tensor.name for tensor in saved.graph.initializer) == ["both", "w", "which"]
    branches = [entry.g for entry in saved.graph.node[1].attribute]
    assert [len(branch.initializer) for branch in branches] == [0, 0]


def test_two_constants_of_one_name_are_refused_instead_of_one_being_lost() -> None:
    graph = as_graph(plain())
    graph.nodes[0].inputs[0] = gs.Constant("w", np.float32([3, 4]))

    with pytest.raises(ModelError, match="one name"):
        to_model(graph)


def test_a_changed_shape_is_written_with_the_new_shape() -> None:
    graph = as_graph(plain())

    graph.inputs[0].shape = ["m", 2]

    dims = to_model(graph).graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "m"


def test_a_list_of_graphs_is_refused() -> None:
    model = plain()
    add_custom_attributes(model)
    model.graph.node[1].attribute.append(AttributeProto(name="gs", type=AttributeProto.GRAPHS))

    with pytest.raises(ModelError, match="'gs' is a list of graphs"):
        as_graph(model)
