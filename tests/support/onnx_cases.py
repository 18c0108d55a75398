"""ONNX's own backend tests, of all kinds that ship in its package, run through `to_torch`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from onnxqat.bridge import to_torch
from onnxqat.bridge.ops.dtypes import NARROW
from onnxqat.bridge.tensors import tensor_of

RTOL, ATOL = 1e-3, 1e-7
"""The tolerance of ONNX's own runner."""
LIGHT = "real"
"""ONNX's loader lists the `light` models, whole nets with weights of one value, as this kind."""


@dataclass(frozen=True)
class Case:
    """A model and what it must compute."""

    name: str
    load: Callable[[], tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]]
    """The model, and inputs with outputs: numpy arrays, lists of them, or None."""
    rtol: float = RTOL
    atol: float = ATOL


@cache
def node_cases() -> tuple[TestCase, ...]:
    """All node cases with a model, sorted by name; collecting a second time would give none."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases divide by zero on purpose
        found = collect_testcases("")
    assert found, "something else in this process has collected the cases"
    return tuple(sorted((case for case in found if case.model), key=lambda case: case.name))


def cases_of_nodes() -> dict[str, Case]:
    """The cases of single operators, by name."""
    return {c.name: Case(c.name, lambda c=c: _of_node(c), c.rtol, c.atol) for c in node_cases()}


def _of_node(case: TestCase) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    assert case.model is not None
    assert case.data_sets is not None
    sets = [([*map(as_array, i)], [*map(as_array, o)]) for i, o in case.data_sets]
    return case.model, sets


def as_array(value: Any) -> Any:
    """A proto as what it holds; anything else as it is."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def cases_of_models(kind: str) -> dict[str, Case]:
    """The cases of one other kind, by name: simple, pytorch-operator, pytorch-converted, LIGHT."""
    found = sorted(load_model_tests(kind=kind), key=lambda case: case.name)
    return {case.name: _of_model(case) for case in found}


def _of_model(case: TestCase) -> Case:
    if case.model_dir is not None:
        folder = Path(case.model_dir)
        return Case(case.name, lambda: saved(folder), case.rtol, case.atol)
    path = Path(onnx.__file__).parents[1] / str(case.url)
    return Case(case.name, lambda: _light(path), case.rtol, case.atol)


def saved(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    """A case as ONNX stores it: a model and folders of protos."""
    model = onnx.load(folder / "model.onnx")
    sets = [
        (
            [_proto(path, model.graph.input[_index(path)]) for path in _files(data, "input")],
            [_proto(path, model.graph.output[_index(path)]) for path in _files(data, "output")],
        )
        for data in sorted(folder.glob("test_data_set_*"))
    ]
    return model, sets


def _index(path: Path) -> int:
    return int(path.stem.rsplit("_", 1)[1])


def _files(folder: Path, what: str) -> list[Path]:
    return sorted(folder.glob(f"{what}_*.pb"), key=_index)


def _proto(path: Path, formal: onnx.ValueInfoProto) -> Any:
    kind = formal.type.WhichOneof("value")
    content = path.read_bytes()
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _light(path: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [
        Runner.generate_dummy_data(formal)
        for formal in model.graph.input
        if formal.name not in weights
    ]
    outputs = [
        numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_{i}.pb")))
        for i in range(len(model.graph.output))
    ]
    return model, [(inputs, outputs)]


def as_torch(value: Any) -> Any:
    """An input as the module takes it; strings stay in numpy."""
    if value is None:
        return None
    if isinstance(value, list):
        return [as_torch(item) for item in value]
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "OUS" else tensor_of(array)


def as_numpy(value: Any, like: Any) -> Any:
    """An output as ONNX's runner compares it, with its own type or a numpy name for it."""
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach()
    if tensor.dtype in NARROW:
        tensor, name = tensor.view(NARROW[tensor.dtype][0]), str(tensor.dtype)[6:]
    elif tensor.is_floating_point() and tensor.element_size() < 4 and _is_foreign(tensor.dtype):
        tensor, name = tensor.float(), str(tensor.dtype)[6:]
    else:
        return tensor.numpy()
    assert name == like.dtype.name
    return tensor.numpy().astype(like.dtype)


def _is_foreign(dtype: torch.dtype) -> bool:
    return dtype not in (torch.float16, torch.float32, torch.float64)


def assert_passes(case: Case) -> None:
    """The module gives the outputs of the case, compared by ONNX's own runner."""
    model, data_sets = case.load()
    module = to_torch(model)
    assert data_sets
    for inputs, wanted in data_sets:
        assert_outputs(module(*map(as_torch, inputs)), wanted, case)


def assert_outputs(result: Any, wanted: list[Any], case: Case) -> None:
    """What a module returned is what a case wants, compared by ONNX's own runner."""
    outputs = result if isinstance(result, tuple) else (result,)
    pairs = list(_pairs(list(outputs), wanted))
    Runner.assert_similar_outputs(
        [want for _, want in pairs],
        [as_numpy(got, want) for got, want in pairs],
        case.rtol,
        case.atol,
    )


def _pairs(got: Any, want: Any) -> Iterator[tuple[Any, Any]]:
    """Tensors got and wanted, those of sequences too, at which ONNX's runner trips."""
    assert (got is None) == (want is None)
    if isinstance(want, list):
        assert isinstance(got, list)
        for one, other in zip(got, want, strict=True):
            yield from _pairs(one, other)
    elif want is not None:
        yield got, want


_FLOATS = frozenset(np.dtype(name) for name in ("f2", "f4", "f8"))
_PLAIN = _FLOATS | {np.dtype(name) for name in ("?", *"bhilBHIL")}
_NO_INFERENCE = ("_expanded", "training", "bernoulli")


def is_float_inference(name: str, model: onnx.ModelProto) -> bool:
    """Whether one of ONNX's own operators computes with a plain float tensor, in or out.

    Not the expanded functions, training mode, random numbers, sequences, strings, and the types
    that numpy lacks.
    """
    graph = model.graph
    types = [formal.type for formal in (*graph.input, *graph.output)]
    if any(kind.WhichOneof("value") != "tensor_type" for kind in types):
        return False
    kinds = {onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type) for kind in types}
    return (
        kinds <= _PLAIN
        and not kinds.isdisjoint(_FLOATS)
        and not any(part in name for part in _NO_INFERENCE)
        and all(node.domain == "" for node in graph.node)
    )
