from __future__ import annotations

import pytest

from onnxqat.core.errors import BuildError
from onnxqat.engine import backends
from onnxqat.engine.backends import check_target, choose_backend, sm_name


def machine(
    monkeypatch: pytest.MonkeyPatch, *, installed: set[str], gpu: tuple[int, int] | None
) -> None:
    """Pretend that these packages and this GPU are here."""
    monkeypatch.setattr(backends, "_is_installed", installed.__contains__)
    monkeypatch.setattr(backends, "gpu_capability", lambda: gpu)


BOTH = {"tensorrt", "tensorrt_rtx", "polygraphy"}


def test_auto_takes_tensorrt_where_it_and_a_gpu_are(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, installed=BOTH, gpu=(9, 0))

    assert choose_backend("auto") == "tensorrt"


def test_auto_takes_rtx_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, installed=BOTH, gpu=None)

    assert choose_backend("auto") == "rtx"


def test_auto_takes_rtx_where_tensorrt_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, installed={"tensorrt_rtx", "polygraphy"}, gpu=(8, 9))

    assert choose_backend("auto") == "rtx"


def test_a_missing_package_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, installed={"polygraphy"}, gpu=None)

    with pytest.raises(BuildError, match="tensorrt_rtx is not installed") as caught:
        choose_backend("auto")
    assert caught.value.fix == "pip install 'onnxqat[rtx]'"


def test_tensorrt_without_a_gpu_is_an_error_that_names_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, installed=BOTH, gpu=None)

    with pytest.raises(BuildError, match="needs an NVIDIA GPU") as caught:
        choose_backend("tensorrt")
    assert "rtx" in (caught.value.fix or "")


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(BuildError, match="no compiler called 'openvino'"):
        choose_backend("openvino")


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)])
def test_a_target_of_rtx_is_accepted(capability: tuple[int, int]) -> None:
    check_target(capability)


def test_a_target_that_rtx_lacks_is_an_error_that_lists_those_it_has() -> None:
    with pytest.raises(BuildError, match="does not compile for SM90") as caught:
        check_target((9, 0))
    assert "SM75, SM80, SM86, SM89, SM120, SM121" in (caught.value.fix or "")


def test_a_capability_is_spelled_as_nvidia_does() -> None:
    assert (sm_name((8, 9)), sm_name((12, 0))) == ("SM89", "SM120")
