"""The words between a program and its agent."""

import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tmem.agents.pager import control
from tmem.wire.errors import Closed, DeadlineExceeded, Unauthenticated


def test_a_request_is_asked_again_until_somebody_does_it() -> None:
    ours, agents = control.pair()
    with ours, agents:
        caller = control.Caller(ours)
        with pytest.raises(DeadlineExceeded, match="'record'"):
            caller.call(0.05, do="record")
        assert control.read(agents) == {"do": "record", "id": 1}
        assert control.read(agents) is None
        control.send(agents, {"id": 1})  # too late
        control.send(agents, {"id": 2, "more": 3})
        assert caller.call(5, do="limit", units=7)["more"] == 3
        assert control.read(agents) == {"do": "limit", "units": 7, "id": 2}


def test_threads_that_call_at_once_get_each_its_own_answer() -> None:
    ours, agents = control.pair()
    with ours, agents, ThreadPoolExecutor(4) as threads:
        caller = control.Caller(ours)
        calls = {units: threads.submit(caller.call, 30, do="limit", units=units) for units in range(4)}
        asked: dict[int, int] = {}
        while len(asked) < len(calls):  # whoever reads for all gets the answers of the others first
            if select.select([agents], [], [], 30)[0] and (request := control.read(agents)) is not None:
                asked[request["units"]] = request["id"]
        assert sorted(asked.values()) == [1, 2, 3, 4]
        for units, number in sorted(asked.items(), key=lambda each: -each[1]):
            control.send(agents, {"id": number, "more": units})
        for units, call in calls.items():
            assert call.result(30)["more"] == units


def test_threads_that_wait_are_all_told_that_nobody_is_there_any_more() -> None:
    ours, agents = control.pair()
    with ours, ThreadPoolExecutor(2) as threads:
        caller = control.Caller(ours)
        calls = [threads.submit(caller.call, 30, do="record") for _ in range(2)]
        with agents:
            asked: set[int] = set()
            while len(asked) < len(calls):
                if select.select([agents], [], [], 30)[0] and (request := control.read(agents)) is not None:
                    asked.add(request["id"])
        for call in calls:
            with pytest.raises(Closed):
                call.result(30)


def test_who_waits_is_told_that_nobody_is_there_any_more() -> None:
    ours, agents = control.pair()
    with ours:
        agents.close()
        with pytest.raises(Closed):
            control.Caller(ours).call(5, do="record")


def test_the_first_agent_s_failure_is_raised_as_what_it_was() -> None:
    for word, error in (("Unauthenticated", Unauthenticated), ("os", Exception), ("Exception", Exception)):
        ours, agents = control.pair()
        with ours, agents:
            control.send(agents, {"event": "failed", "error": word, "message": "who are you"})
            with pytest.raises(error, match="who are you"):
                control.Caller(ours).await_ready(5)
    ours, agents = control.pair()
    with ours, agents:
        with pytest.raises(DeadlineExceeded):
            control.Caller(ours).await_ready(0.01)
        control.send(agents, {"event": "ready"})
        control.Caller(ours).await_ready(5)


def test_the_most_runs_that_are_sent_at_once_fit_into_a_message() -> None:
    ours, agents = control.pair()
    with ours, agents:
        agents.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        runs = [(4_000_000_000, 4_000_000_000)] * control.MAX_RUNS
        control.send(ours, {"id": 1, "do": "bring", "runs": runs})
        read = control.read(agents)
        assert read is not None
        assert len(read["runs"]) == control.MAX_RUNS
    assert len(json.dumps({"id": 1 << 60, "do": "bring", "runs": runs})) < 1 << 16
