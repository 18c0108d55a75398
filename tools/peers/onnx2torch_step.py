"""Take one training step of a model through onnx2torch for each line on standard input.

    python onnx2torch_step.py MODEL INPUT.npy LABELS.npy --threads 1

Prints one line of JSON first ({"trained": …} or {"error": …}), then one a step: its CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def stand_in_for_torchvision() -> None:
    """onnx2torch imports it for RoiAlign and NMS, and no build of it fits a CPU build of torch."""
    package, operators = ModuleType("torchvision"), ModuleType("torchvision.ops")
    operators.roi_align = None  # type: ignore[attr-defined]
    package.ops = operators  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.ops": operators}


def say(**line: object) -> None:
    """One line for the process that started this one."""
    print(json.dumps(line), flush=True)


def main() -> None:
    """Convert, then step on demand."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("model", type=Path)
    arguments.add_argument("input", type=Path)
    arguments.add_argument("labels", type=Path)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    stand_in_for_torchvision()
    from bench_bridge import count, step

    from onnxqat.bridge import keep_freed_memory

    keep_freed_memory()  # as all contestants
    try:
        from onnx2torch import convert  # type: ignore[import-not-found]

        module = convert(str(options.model))
        x, y = (torch.from_numpy(np.load(path)) for path in (options.input, options.labels))
        step(module, x, y)
    except Exception as error:  # noqa: BLE001 - whatever it is, the table tells it
        say(error=f"{type(error).__name__}: {error}".splitlines()[0][:90])
        return
    say(trained=count(module))
    for _ in sys.stdin:
        say(times=step(module, x, y))


if __name__ == "__main__":
    main()
