"""The command `onnxqat`: dispatch, and errors as one clear message.

Results go to stdout, progress and logs to stderr. Exit codes: 0 clean, 1 findings or a missed
budget, 2 bad usage or bad input.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from onnxqat.cli import audit, check, mix, ops, quantize, show, train, whole
from onnxqat.core.errors import OnnxqatError
from onnxqat.version import __version__

BAD_INPUT = 2
GC_THRESHOLD = 50_000
"""Objects made between two searches for garbage: at Python's 700 a short command spends a twelfth
of its time on looking through modules and graphs that stay until its end."""
WAITING = ("OMP_WAIT_POLICY", "PASSIVE")
"""Torch's threads sleep while they wait for each other, if the user does not say otherwise. That
loses nothing where a core is free, and spinning beside another process takes the core from the very
thread that is waited for: two fine-tunings on two cores take 144 s so, and 20 s asleep."""

app = App(
    name="onnxqat",
    version=__version__,
    help="Quantization-aware training of ONNX files for TensorRT: FP32 ONNX and data in, "
    "fine-tuned Q/DQ ONNX out, with the evidence beside it.",
    suppress_keyboard_interrupt=False,  # `main` answers it, as all else
)
COMMANDS = (
    *whole.COMMANDS,
    *quantize.COMMANDS,
    *mix.COMMANDS,
    *train.COMMANDS,
    *check.COMMANDS,
    *audit.COMMANDS,
    *ops.COMMANDS,
)
for _order, _command in enumerate(COMMANDS):
    app.command(_command, sort_key=_order)  # type: ignore[call-overload] # a union of signatures


class _Notes(logging.Handler):
    """Shows what a training says of its choices."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        show.log(record.getMessage())


def _show_notes() -> None:
    logger = logging.getLogger("onnxqat.training")
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())
        logger.setLevel(logging.INFO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never a traceback for bad input."""
    _show_notes()
    logging.getLogger("onnxqat").addHandler(
        logging.NullHandler()
    )  # the commands show it themselves
    gc.set_threshold(GC_THRESHOLD)
    os.environ.setdefault(*WAITING)  # read once, when torch is loaded, which commands do themselves
    try:
        code = app(
            sys.argv[1:] if arguments is None else arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        return _fail(f"{error}\n  fix: see onnxqat --help, or onnxqat COMMAND --help")
    except OnnxqatError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written was left")
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename}")
    return int(code or 0)


def _fail(message: str) -> int:
    rank = os.environ.get("RANK", "0")  # torchrun's: several processes share one terminal
    who = "onnxqat" if rank == "0" else f"onnxqat, process {rank}"
    sys.stderr.write(f"{who}: {message}\n")
    return BAD_INPUT
