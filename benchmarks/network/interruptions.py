"""Turn signals into exceptions, but not while something must not be left half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_holds = 0
_pending: int | None = None


class Interrupted(SystemExit):
    """A signal asked this process to end; its code is what a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread on Ctrl-C, SIGTERM and SIGHUP.

    Without this, SIGTERM ends Python at once, and no context is left properly.
    """
    global _pending
    _pending = None
    handlers = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Put off interruptions until the end of this context.

    Signals are not blocked: a process that is started here would inherit that.
    """
    global _holds
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
        if not _holds and _pending is not None:
            _raise_pending()


def _interrupt(number: int, _: FrameType | None) -> None:
    global _pending
    _pending = number
    if not _holds:
        _raise_pending()


def _raise_pending() -> None:
    global _pending
    number, _pending = _pending, None
    assert number is not None
    raise Interrupted(number)
