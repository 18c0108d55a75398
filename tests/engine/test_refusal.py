from __future__ import annotations

from onnxqat.engine.refusal import refusal

NO_IMPLEMENTATION = """\
[X] Compiling
[E] IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any \
implementation for node {ForeignNode[a.../conv/Conv]}.)
[E] [checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at x)
[!] Invalid Engine. Please ensure the engine was built correctly
"""


def test_the_builder_s_own_message_is_told_without_the_noise_about_the_absent_gpu() -> None:
    error = refusal(NO_IMPLEMENTATION)

    assert "Could not find any implementation" in error.problem
    assert "Cuda" not in error.problem
    assert error.node == "{ForeignNode[a.../conv/Conv]}"
    assert error.fix == "exclude that node from quantization (TensorRT has no kernel for it)"


def test_a_refusal_without_an_error_line_tells_the_last_words() -> None:
    assert (
        "ModuleNotFoundError: No module named 'x'"
        in refusal("Traceback\n  File a\nModuleNotFoundError: No module named 'x'\n").problem
    )


def test_a_refusal_that_says_nothing_is_still_an_error() -> None:
    assert refusal("").problem == "TensorRT refuses the model: it said nothing"
