"""Signals are noticed, and given back."""

import os
import signal
import threading

import pytest

from scanseg.training.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_is_noticed_the_second_acts(number):
    met = []
    former = signal.signal(number, lambda *_: met.append(number))
    try:
        with Interrupts() as interrupts:
            assert interrupts.requested is None
            os.kill(os.getpid(), number)
            assert interrupts.requested == number
            assert met == []
            os.kill(os.getpid(), number)
            assert met == [number]
        assert signal.getsignal(number) is not former
        os.kill(os.getpid(), number)
        assert met == [number, number]
    finally:
        signal.signal(number, former)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_leaving(number, raised):
    interrupts = Interrupts()
    interrupts.requested = number
    with pytest.raises(raised) as caught:
        interrupts.leave()
    if raised is SystemExit:
        assert caught.value.code == 128 + number


def test_other_threads_leave_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
