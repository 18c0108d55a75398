"""LSTM, GRU and RNN.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html and its siblings. Plain nets run through
torch's fused kernels, the rest step by step; both are differentiable.
"""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.registry import Outputs, Weight, op
from onnxqat.core.errors import ModelError

Activation = Callable[[Tensor], Tensor]
Numbers = tuple[float, ...]

_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float | None, ...]]] = {
    "sigmoid": (torch.sigmoid, ()),
    "tanh": (torch.tanh, ()),
    "relu": (torch.relu, ()),
    "softsign": (functional.softsign, ()),
    "softplus": (functional.softplus, ()),
    "affine": (lambda x, a, b: a * x + b, (None, None)),
    "leakyrelu": (functional.leaky_relu, (0.01,)),
    "thresholdedrelu": (lambda x, a: torch.where(x > a, x, torch.zeros_like(x)), (None,)),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), (None, None)),
    "hardsigmoid": (lambda x, a, b: (a * x + b).clamp(0, 1), (0.2, 0.5)),
    "elu": (functional.elu, (1.0,)),
}
"""Function and the defaults of its alpha and beta, by ONNX's name in lower case.

None where ONNX names a default and ONNX Runtime takes another.
"""


def _activations(
    names: tuple[str, ...], alphas: Numbers | None, betas: Numbers | None
) -> list[Activation]:
    """The functions; alphas and betas are given to those that take them, in order."""
    alpha, beta = iter(alphas or ()), iter(betas or ())
    return [activation(name, alpha, beta) for name in names]


def activation(name: str, *parameters: Iterator[float]) -> Activation:
    """An activation by its name, with what it takes off its parameters' values.

    Raises:
        ModelError: There is none of this name.
    """
    if name.lower() not in _ACTIVATIONS:
        raise ModelError(f"activation '{name}' is not known")
    function, defaults = _ACTIVATIONS[name.lower()]
    given = [next(source, d) for source, d in zip(parameters, defaults, strict=False)]
    numbers = tuple(value for value in given if value is not None)
    if len(numbers) < len(defaults):
        raise ModelError(
            f"activation '{name}' has no alpha or beta, and the default differs between ONNX and "
            "its runtimes",
            fix="write activation_alpha and activation_beta out",
        )
    return partial(_applied, function, numbers)


def _applied(function: Callable[..., Tensor], parameters: Numbers, x: Tensor) -> Tensor:
    return function(x, *parameters)


class _Run:
    """What LSTM, GRU and RNN share: directions, layout, lengths and the loop over time."""

    def __init__(
        self,
        X: Tensor,
        *,
        direction: str,
        layout: int,
        sequence_lens: Tensor | None,
    ) -> None:
        self.X = X.transpose(0, 1) if layout else X
        self.layout = layout
        self.backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
            direction
        ]
        self.lengths = sequence_lens

    def initial(self, state: Tensor | None, hidden: int) -> Tensor:
        """The initial state [directions, batch, hidden]."""
        if state is None:
            return self.X.new_zeros(len(self.backwards), self.X.shape[1], hidden)
        return state.transpose(0, 1) if self.layout else state

    def over_time(
        self,
        step: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]],
        inputs: Tensor,
        state: tuple[Tensor, ...],
        *,
        backward: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All hidden states [time, batch, hidden] and the last state of each sequence.

        `inputs` are the projected inputs [time, batch, gates]; past its length, a sequence's
        outputs are 0 and its state stays. Backward, each sequence starts at its own end.
        """
        times = range(inputs.shape[0])
        hidden: list[Tensor] = []
        for t in reversed(times) if backward else times:
            new = step(inputs[t], state)
            if self.lengths is not None:
                live = (self.lengths > t).unsqueeze(-1)
                state = tuple(torch.where(live, n, o) for n, o in zip(new, state, strict=True))
                hidden.append(torch.where(live, new[0], torch.zeros_like(new[0])))
            else:
                state = new
                hidden.append(new[0])
        return torch.stack(hidden[::-1] if backward else hidden), state

    def result(self, hidden: list[Tensor], *states: list[Tensor], outputs: int) -> Any:
        """Y [time, directions, batch, hidden], then Y_h (and Y_c) [directions, batch, hidden]."""
        Y = torch.stack(hidden, 1)
        last = [torch.stack(state) for state in states]
        if self.layout:
            Y, last = Y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
        return Y if outputs == 1 else (Y, *last)[:outputs]


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


@op("LSTM", versions=(7, 14, 22))
def lstm(
    X: Tensor,
    W: Weight,
    R: Weight,
    B: Weight | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Weight | None = None,
    *,
    activation_alpha: Numbers | None = None,
    activation_beta: Numbers | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    outputs: Outputs = 1,
) -> Any:
    run = _Run(X, direction=direction, layout=layout, sequence_lens=sequence_lens)
    size = R.shape[-1]
    h0, c0 = run.initial(initial_h, size), run.initial(initial_c, size)
    standard = ("sigmoid", "tanh", "tanh") * len(run.backwards)
    names = tuple(name.lower() for name in activations) if activations else standard
    plain = clip is None and not input_forget and P is None and sequence_lens is None
    if plain and names == standard and direction != "reverse":
        return _fused_lstm(run, W, R, B, h0, c0, outputs=outputs)
    functions = _activations(names, activation_alpha, activation_beta)
    hidden, last_h, last_c = [], [], []
    for d, backward in enumerate(run.backwards):
        f, g, h = functions[3 * d : 3 * d + 3]
        peephole = X.new_zeros(3 * size) if P is None else P[d]
        recurrent = R[d]

        def step(
            x: Tensor,
            state: tuple[Tensor, ...],
            R: Tensor = recurrent,
            p: Tensor = peephole,
            f: Activation = f,
            g: Activation = g,
            h: Activation = h,
        ) -> tuple[Tensor, ...]:
            H, C = state
            i, o, forget, c = (x + H @ R.t()).chunk(4, -1)
            pi, po, pf = p.chunk(3, -1)
            i = f(_clipped(i + pi * C, clip))
            forget = 1 - i if input_forget else f(_clipped(forget + pf * C, clip))
            C = forget * C + i * g(_clipped(c, clip))
            o = f(_clipped(o + po * C, clip))
            return o * h(C), C

        bias = 0 if B is None else B[d].reshape(2, -1).sum(0)
        Y, (H, C) = run.over_time(step, run.X @ W[d].t() + bias, (h0[d], c0[d]), backward=backward)
        hidden.append(Y)
        last_h.append(H)
        last_c.append(C)
    return run.result(hidden, last_h, last_c, outputs=outputs)


def _fused_lstm(
    run: _Run, W: Tensor, R: Tensor, B: Tensor | None, h0: Tensor, c0: Tensor, *, outputs: int
) -> Any:
    weights = []
    for d in range(len(run.backwards)):
        parts = [W[d], R[d]] if B is None else [W[d], R[d], *B[d].chunk(2)]
        weights += [_torch_order(part) for part in parts]
    both = len(run.backwards) == 2
    Y, h, c = torch._VF.lstm(run.X, (h0, c0), weights, B is not None, 1, 0.0, False, both, False)
    hidden = list(Y.chunk(2, -1)) if both else [Y]
    return run.result(hidden, list(h), list(c), outputs=outputs)


def _torch_order(gates: Tensor) -> Tensor:
    """ONNX keeps the gates as input, output, forget, cell; torch as input, forget, cell, output."""
    i, o, f, c = gates.chunk(4)
    return torch.cat((i, f, c, o))


@op("GRU", versions=(7, 14, 22))
def gru(
    X: Tensor,
    W: Weight,
    R: Weight,
    B: Weight | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Numbers | None = None,
    activation_beta: Numbers | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: Outputs = 1,
) -> Any:
    run = _Run(X, direction=direction, layout=layout, sequence_lens=sequence_lens)
    size = R.shape[-1]
    h0 = run.initial(initial_h, size)
    names = activations or ("sigmoid", "tanh") * len(run.backwards)
    functions = _activations(names, activation_alpha, activation_beta)
    hidden, last = [], []
    for d, backward in enumerate(run.backwards):
        f, g = functions[2 * d : 2 * d + 2]
        Wb, Rb = (X.new_zeros(2, 3 * size) if B is None else B[d].reshape(2, -1)).unbind(0)
        Rzr, Rh = R[d].split_with_sizes((2 * size, size))
        Rbzr, Rbh = Rb.split_with_sizes((2 * size, size))

        def step(
            x: Tensor,
            state: tuple[Tensor, ...],
            Rzr: Tensor = Rzr,
            Rh: Tensor = Rh,
            Rbzr: Tensor = Rbzr,
            Rbh: Tensor = Rbh,
            f: Activation = f,
            g: Activation = g,
        ) -> tuple[Tensor, ...]:
            (H,) = state
            xzr, xh = x.split_with_sizes((2 * size, size), -1)
            z, r = f(_clipped(xzr + H @ Rzr.t() + Rbzr, clip)).chunk(2, -1)
            reset = r * (H @ Rh.t() + Rbh) if linear_before_reset else (r * H) @ Rh.t() + Rbh
            return ((1 - z) * g(_clipped(xh + reset, clip)) + z * H,)

        Y, (H,) = run.over_time(step, run.X @ W[d].t() + Wb, (h0[d],), backward=backward)
        hidden.append(Y)
        last.append(H)
    return run.result(hidden, last, outputs=outputs)


@op("RNN", versions=(7, 14, 22))
def rnn(
    X: Tensor,
    W: Weight,
    R: Weight,
    B: Weight | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Numbers | None = None,
    activation_beta: Numbers | None = None,
    activations: tuple[str, ...] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    outputs: Outputs = 1,
) -> Any:
    run = _Run(X, direction=direction, layout=layout, sequence_lens=sequence_lens)
    h0 = run.initial(initial_h, R.shape[-1])
    functions = _activations(activations, activation_alpha, activation_beta)
    hidden, last = [], []
    for d, backward in enumerate(run.backwards):
        bias = 0 if B is None else B[d].reshape(2, -1).sum(0)

        def step(
            x: Tensor, state: tuple[Tensor, ...], R: Tensor = R[d], f: Activation = functions[d]
        ) -> tuple[Tensor, ...]:
            return (f(_clipped(x + state[0] @ R.t(), clip)),)

        Y, (H,) = run.over_time(step, run.X @ W[d].t() + bias, (h0[d],), backward=backward)
        hidden.append(Y)
        last.append(H)
    return run.result(hidden, last, outputs=outputs)
