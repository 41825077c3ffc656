"""Whose turn it is on a host: many work, one measures alone, and who works gives way."""

import threading
import time

import pytest

from efficientnetv2.search.measure import HostTurns


@pytest.fixture
def turns():
    made = [HostTurns() for _ in range(3)]
    yield made
    for one in made:
        one.close()


def in_thread(target) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_many_work_and_one_measures_when_all_have_given_way(turns):
    first, second, measuring = turns
    first.begin_work()
    second.begin_work()
    inside, over, happened = threading.Event(), threading.Event(), []

    def measure():
        with measuring.alone():
            inside.set()
            over.wait(60)

    thread = in_thread(measure)
    assert not inside.wait(0.5)

    def give_way(one):  # As a worker does, now and then.
        while "resumed" not in happened:
            one.give_way(lambda: happened.append("paused"), lambda: happened.append("resumed"))
            time.sleep(0.02)

    workers = [in_thread(lambda one=one: give_way(one)) for one in (first, second)]
    assert inside.wait(60)
    assert happened == ["paused", "paused"]
    over.set()
    for one in (thread, *workers):
        one.join(60)
    assert happened == ["paused", "paused", "resumed", "resumed"]


def test_nobody_gives_way_where_nobody_asks(turns):
    first, second, _ = turns
    first.begin_work()
    second.begin_work()
    first.give_way(pytest.fail, pytest.fail)


def test_two_never_measure_at_once(turns):
    first, second, _ = turns
    entered = []

    def measure():
        with second.alone():
            entered.append("second")

    with first.alone():
        thread = in_thread(measure)
        thread.join(0.5)
        assert entered == []
    thread.join(10)
    assert entered == ["second"]


def test_who_is_asked_to_stop_no_longer_waits(turns):
    turns[0].begin_work()
    stopped = HostTurns(stopping=lambda: True)
    with stopped.alone():
        pass
    stopped.begin_work()
    stopped.close()
