"""The words between a program and its agent."""

import json
import socket

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
