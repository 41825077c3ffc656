"""Signals that stop a run, and what is told of a loss that is no number."""

import os
import signal
import threading

import pytest

from efficientnetv2.training.signals import (
    NotFinite,
    StopRequested,
    StopSignals,
    TrainingStopped,
    not_finite_error,
)


@pytest.fixture(autouse=True)
def own_handlers():
    """Handlers of this test, which must be back at its end."""
    caught = []
    before = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    own = {number: signal.getsignal(number) for number in before}
    yield caught
    assert {number: signal.getsignal(number) for number in before} == own
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_asks(number, own_handlers, capfd):
    with StopSignals() as signals:
        assert not signals.requested
        send(number)
        assert signals.requested
    assert own_handlers == []
    assert f"{number.name}: saving after this step" in capfd.readouterr().err
    send(number)
    assert own_handlers == [number]


def test_a_second_interrupt_is_one_and_a_second_sigterm_is_not(own_handlers):
    with StopSignals():
        for _ in range(3):
            send(signal.SIGTERM)
        send(signal.SIGINT)
        assert own_handlers == []
        send(signal.SIGINT)
        assert own_handlers == [signal.SIGINT]


def test_a_signal_breaks_off_what_can_be_broken_off_once():
    with StopSignals() as signals:
        with pytest.raises(StopRequested), signals.breaking_off():
            try:
                send(signal.SIGTERM)
                pytest.fail("not broken off")
            finally:
                send(signal.SIGTERM)  # The way out is not broken off again.
        send(signal.SIGTERM)  # Nor is anything outside.
        with pytest.raises(StopRequested), signals.breaking_off():
            pytest.fail("it was requested before")


def test_in_another_thread_nothing_is_installed(own_handlers):
    def inside():
        with StopSignals():
            send(signal.SIGTERM)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert own_handlers == [signal.SIGTERM]


def test_a_stop_says_where():
    assert str(TrainingStopped(7)) == "stopped at step 7"


def test_what_is_told_of_a_step_that_is_not_finite():
    error = NotFinite(5, float("nan"), float("inf"))
    told = not_finite_error(error, 0.0005, ["a.jpg", "b.jpg"], "run/ckpt-4", "do this")
    assert str(told) == (
        "the loss is nan, the gradient's norm inf at step 5, learning rate 0.0005; its batch: "
        "a.jpg, b.jpg; last good checkpoint: run/ckpt-4; do this"
    )
    many = not_finite_error(error, 0.0005, [f"{i}.jpg" for i in range(20)], None, "do this")
    assert "7.jpg and 12 more; last good checkpoint: none; do" in str(many)
