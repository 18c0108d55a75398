"""Ctrl-C while training: it is heeded after the step, when the run can be kept."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TOGETHER = 1.0
"""Seconds within which a second signal is the first one again: torchrun hands on what the terminal
has already sent to every process."""
_LOG = logging.getLogger("onnxqat.training")


@dataclass(eq=False)
class Interrupt:
    """Whether the user has asked to stop."""

    is_asked: bool = False
    _since: float = 0.0

    def ask(self, _number: int, _frame: object) -> None:
        """Note it; asked a second time, stop at once.

        Raises:
            KeyboardInterrupt: It is the second time.
        """
        if not self.is_asked:
            self.is_asked, self._since = True, time.monotonic()
            _LOG.warning("stopping after this step; Ctrl-C again stops at once")
        elif time.monotonic() - self._since > TOGETHER:
            raise KeyboardInterrupt


@contextmanager
def heeded() -> Iterator[Interrupt]:
    """Within, Ctrl-C is noted and does not interrupt.

    It is noted in the main thread only, as Python has it, and only where nobody else handles it.
    """
    interrupt = Interrupt()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt.ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
