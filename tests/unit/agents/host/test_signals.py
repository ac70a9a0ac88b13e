"""Signals that wait for the end of a step."""

import os
import signal
import threading

import pytest

from tmem.agents.host.signals import held


def test_a_signal_within_is_handled_at_the_end():
    steps = []

    @held()
    def step() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("done")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert steps == ["done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_back_when_the_step_fails():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="no"), held():
        raise OSError("no")
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_elsewhere_than_in_the_main_thread_the_block_just_runs():
    steps = []

    def work() -> None:
        with held():
            steps.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert steps == ["done"]
