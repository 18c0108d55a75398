"""Fourier transforms, their windows, and mel bands."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from onnxqat.bridge.ops.dtypes import torch_dtype
from onnxqat.bridge.ops.registry import Floats, Ints, op
from onnxqat.core.errors import ModelError

TRANSFORMABLE = (torch.float32, torch.float64)


@op("DFT", versions=(17,))
def dft_by_attribute(
    input: Tensor,
    dft_length: Ints | None = None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    return dft(input, dft_length, (axis,), inverse=inverse, onesided=onesided)


@op("DFT", versions=(20,))
def dft(
    input: Tensor,
    dft_length: Ints | None = None,
    axis: Ints | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    dim = (axis[0] if axis else -2) % input.ndim
    length = dft_length[0] if dft_length else None
    wide = input if input.dtype in TRANSFORMABLE else input.float()
    x = torch.complex(wide[..., 0], wide[..., 1]) if wide.shape[-1] == 2 else wide[..., 0]
    if inverse and onesided:
        y = torch.fft.irfft(x, length, dim)
        return torch.unsqueeze(y, -1).to(input.dtype)
    if inverse:
        y = torch.fft.ifft(x, length, dim)
    elif onesided and not x.is_complex():
        y = torch.fft.rfft(x, length, dim)
    else:
        y = torch.fft.fft(x, length, dim)
        y = y.narrow(dim, 0, y.shape[dim] // 2 + 1) if onesided else y
    return torch.view_as_real(y.resolve_conj()).to(input.dtype)


@op("STFT", versions=(17,))
def stft(
    signal: Tensor,
    frame_step: Ints,
    window: Tensor | None = None,
    frame_length: Ints | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    if frame_length:
        length = frame_length[0]
    else:
        length = signal.shape[1] if window is None else window.shape[0]
    if window is not None and window.shape[0] != length:
        raise ModelError(f"a window of {window.shape[0]} does not fit frames of {length}")
    frames = signal.unfold(1, length, frame_step[0]).movedim(-1, -2)
    if window is not None:
        frames = frames * window.unsqueeze(-1)
    return dft(frames, None, (-2,), onesided=onesided)


def _register_window(name: str, *terms: float) -> None:
    """A window that is a sum of cosines: term k is the amplitude of k periods."""

    def window(size: Ints, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
        period = size[0] if periodic else size[0] - 1
        angle = torch.arange(size[0], dtype=torch.float64) * (2 * pi / max(period, 1))
        waves = [term * torch.cos(k * angle) for k, term in enumerate(terms)]
        return torch.stack(waves).sum(0).to(torch_dtype(output_datatype))

    op(name, versions=(17,))(window)


_register_window("HannWindow", 0.5, -0.5)
_register_window("HammingWindow", 25 / 46, -21 / 46)
_register_window("BlackmanWindow", 0.42, -0.5, 0.08)


@op("MelWeightMatrix", versions=(17,))
def mel_weight_matrix(
    num_mel_bins: Ints,
    dft_length: Ints,
    sample_rate: Ints,
    lower_edge_hertz: Floats,
    upper_edge_hertz: Floats,
    *,
    output_datatype: int = 1,
) -> Tensor:
    bins = num_mel_bins[0]
    low, high = (_mel(hertz[0]) for hertz in (lower_edge_hertz, upper_edge_hertz))
    mels = torch.arange(bins + 2, dtype=torch.float64) * ((high - low) / (bins + 2)) + low
    hertz = 700 * torch.expm1(mels / 2595 * log(10))
    edges = torch.floor((dft_length[0] + 1) * hertz / sample_rate[0])
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    row = torch.arange(dft_length[0] // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rise = torch.where(centre == left, (row == centre).double(), (row - left) / (centre - left))
    fall = (right - row) / (right - centre)
    is_falling = (row >= centre) & (row < right)
    weights = torch.where((row >= left) & (row <= centre), rise, torch.zeros_like(rise))
    return torch.where(is_falling, fall, weights).to(torch_dtype(output_datatype))


def _mel(hertz: float) -> float:
    return 2595 * float(torch.log1p(torch.tensor(hertz / 700, dtype=torch.float64))) / log(10)
