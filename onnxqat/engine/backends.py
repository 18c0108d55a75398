"""Which TensorRT compilers can run here, and for which GPUs."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from typing import Literal

from onnxqat.core.errors import BuildError

Backend = Literal["rtx", "tensorrt"]
ComputeCapability = tuple[int, int]
"""A GPU generation, as CUDA numbers it: (8, 9) is SM89."""

RTX_TARGETS: tuple[ComputeCapability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""What TensorRT for RTX 1.7 compiles for (TENSORRT.md, `ComputeCapability` of its API)."""

_PACKAGES: dict[Backend, tuple[str, str]] = {
    "rtx": ("tensorrt_rtx", "pip install 'onnxqat[rtx]'"),
    "tensorrt": ("tensorrt", "pip install 'onnxqat[gpu]'"),
}
"""Backend -> the module that it needs, and the command that installs it."""

_MAJOR, _MINOR = 75, 76
"""CUdevice_attribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h)."""


def choose_backend(wanted: str) -> Backend:
    """TensorRT where a GPU and the package are, else TensorRT-RTX, unless one is wanted by name.

    Raises:
        BuildError: The name is unknown, or the package or the GPU that it needs is missing.
    """
    if wanted == "auto":
        has_tensorrt = _is_installed("tensorrt") and gpu_capability() is not None
        wanted = "tensorrt" if has_tensorrt else "rtx"
    for backend in _PACKAGES:
        if backend == wanted:
            _require(backend)
            return backend
    raise BuildError(
        f"there is no compiler called '{wanted}'", fix=f"choose auto, {' or '.join(_PACKAGES)}"
    )


def check_target(capability: ComputeCapability) -> None:
    """Nothing, where TensorRT for RTX compiles for this GPU generation.

    Raises:
        BuildError: It does not.
    """
    if capability not in RTX_TARGETS:
        known = ", ".join(sm_name(target) for target in RTX_TARGETS)
        raise BuildError(
            f"TensorRT for RTX does not compile for {sm_name(capability)}",
            fix=f"choose one of {known}; other GPUs need TensorRT itself, on that GPU",
        )


def sm_name(capability: ComputeCapability) -> str:
    """(8, 9) -> SM89."""
    return "SM" + "".join(str(part) for part in capability)


def gpu_capability() -> ComputeCapability | None:
    """The first GPU's generation, asked of the driver; None without a GPU or driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if driver.cuInit(0) != 0:
        return None
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0) != 0:
            return None
        parts.append(value.value)
    return parts[0], parts[1]


def _require(backend: Backend) -> None:
    module, install = _PACKAGES[backend]
    for name in (module, "polygraphy"):
        if not _is_installed(name):
            raise BuildError(f"the package {name} is not installed", fix=install)
    if backend == "tensorrt" and gpu_capability() is None:
        raise BuildError(
            "TensorRT needs an NVIDIA GPU to compile, and none was found",
            fix="choose the backend rtx, which needs no GPU",
        )


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
