"""When the client leaves, does the upstream's work stop, at whatever moment, and does the log say `aborted`?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from tests.gateway.live import HI, Fleet, fleet, until
from tests.upstream import Gate, Received, Stall, answer, cut, drip, failing, gated, paced
from tests.upstream.script import stall_before_headers
from traffic.records import Interaction


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Upstream timeouts that no test reaches: what ends a call is the client's leaving and nothing else."""
    long = {"first_byte_timeout_s": 60.0, "total_timeout_s": 60.0}
    with fleet(tmp_path_factory.mktemp("patient"), upstream_settings=long, limits={"retries": 3}) as live:
        yield live


def raw_request(live: Fleet, model: str = "gamma", **fields: Any) -> bytes:
    body = orjson.dumps({"model": model, "messages": HI, **fields})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {live.gateway.port}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def leave_when(live: Fleet, request: bytes, upstream: str, *, reset: bool = False) -> Received:
    """Send the request, wait until it is upstream, then close the connection."""
    client = socket.create_connection(("127.0.0.1", live.gateway.port))
    client.sendall(request)
    received = live[upstream].wait_for(1)[-1]
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    return received


def only_record(live: Fleet) -> Interaction:
    return until(lambda: next(iter(live.gateway.interactions()), None), "no record of the request")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("model", ["gamma", "auto:best"])
def test_leaving_before_the_first_token_cancels_the_upstream(
    patient: Fleet, model: str, stream: bool, reset: bool
) -> None:
    patient.forget()
    patient["gamma"].script(stall_before_headers)
    received = leave_when(patient, raw_request(patient, model, stream=stream), "gamma", reset=reset)
    assert received.client_closed()
    record = only_record(patient)
    assert (record.outcome, record.stream, record.arm) == ("aborted", stream, "gamma")
    assert [attempt.outcome for attempt in record.attempts] == ["aborted"]
    assert record.usage is None
    assert record.cost_usd is None
    assert patient.calls() == {"alpha": 0, "beta": 0, "gamma": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_between_headers_and_body_cancels_the_upstream(patient: Fleet, stream: bool) -> None:
    patient.forget()
    patient["gamma"].script(cut(answer("x"), 0, Stall()))
    received = leave_when(patient, raw_request(patient, stream=stream), "gamma")
    assert received.client_closed()
    assert only_record(patient).outcome == "aborted"


def test_leaving_while_a_whole_answer_drips_cancels_the_upstream(patient: Fleet) -> None:
    patient.forget()
    patient["gamma"].script(drip(answer("x" * 5000), pause=0.05))
    received = leave_when(patient, raw_request(patient), "gamma")
    assert received.client_closed()
    assert only_record(patient).outcome == "aborted"


@pytest.mark.parametrize("explain", [False, True])
def test_leaving_after_the_first_token_cancels_the_upstream(patient: Fleet, explain: bool) -> None:
    patient.forget()
    patient["gamma"].script(gated(answer("one", "two"), Gate(), after=2))
    body = {"model": "auto:best", "messages": HI, "stream": True, "routing": {"explain": explain}}
    with patient.http.stream("POST", "/v1/chat/completions", json=body) as response:
        seen = b""
        for piece in response.iter_raw():
            seen += piece
            if b"one" in seen:
                break
    assert patient["gamma"].last.client_closed()
    record = only_record(patient)
    assert (record.outcome, record.arm) == ("aborted", "gamma")
    assert [attempt.outcome for attempt in record.attempts] == ["aborted"]
    assert record.ttft_s is not None
    assert record.response is not None
    assert b"one" in record.response


def test_leaving_in_the_middle_of_a_paced_stream_cancels_the_upstream(patient: Fleet) -> None:
    patient.forget()
    patient["gamma"].script(paced(answer(*["word "] * 500), 0.02))
    with patient.http.stream(
        "POST", "/v1/chat/completions", json={"model": "gamma", "messages": HI, "stream": True}
    ) as r:
        iterator = r.iter_raw()
        for _ in range(3):
            next(iterator)
    received = patient["gamma"].last
    assert received.client_closed()
    assert received.answered_at is None
    assert only_record(patient).outcome == "aborted"


def test_leaving_between_two_attempts_starts_no_third(patient: Fleet) -> None:
    patient.forget()
    gate = Gate()
    patient["gamma"].script(failing(500), failing(500), gated(answer("x"), gate, after=-1))
    client = socket.create_connection(("127.0.0.1", patient.gateway.port))
    client.sendall(raw_request(patient, "auto:best"))
    patient["gamma"].wait_for(3)
    client.close()
    assert patient["gamma"].last.client_closed()
    record = only_record(patient)
    assert [attempt.outcome for attempt in record.attempts] == ["http_error", "http_error", "aborted"]
    assert patient.calls()["beta"] == 0


@pytest.mark.parametrize("sent", [0, 10])
def test_leaving_while_still_sending_harms_nothing(patient: Fleet, sent: int) -> None:
    patient.forget()
    request = raw_request(patient)
    client = socket.create_connection(("127.0.0.1", patient.gateway.port))
    client.sendall(request[: request.index(b"\r\n\r\n") + 4 + sent])
    client.close()
    assert patient.chat("gamma").status_code == 200
    assert patient.called() == ["gamma"]
    assert len(patient["gamma"].requests) == 1


def test_many_clients_that_leave_leave_nothing_behind(patient: Fleet) -> None:
    patient.forget()
    patient["gamma"].default = stall_before_headers
    clients = [socket.create_connection(("127.0.0.1", patient.gateway.port)) for _ in range(30)]
    for client in clients:
        client.sendall(raw_request(patient, stream=True))
    received = patient["gamma"].wait_for(30)
    for client in clients:
        client.close()
    assert all(request.client_closed() for request in received)
    until(lambda: len(patient.gateway.interactions()) == 30, "30 records")
    assert {record.outcome for record in patient.gateway.interactions()} == {"aborted"}
    metrics = patient.http.get("/metrics").text
    assert "tokamak_requests_running 0" in metrics


def test_a_client_that_stays_is_not_cut_off_by_one_that_leaves(patient: Fleet) -> None:
    patient.forget()
    gate = Gate()
    patient["gamma"].script(gated(answer("stays"), gate, after=1), stall_before_headers)
    body = {"model": "gamma", "messages": HI, "stream": True}
    with patient.http.stream("POST", "/v1/chat/completions", json=body) as response:
        iterator = response.iter_raw()
        seen = next(iterator)
        with httpx.Client(base_url=patient.gateway.root, timeout=0.2) as other, pytest.raises(httpx.ReadTimeout):
            other.post("/v1/chat/completions", json=body)
        gate.open()
        seen += b"".join(iterator)
    assert b"stays" in seen
    assert seen.endswith(b"data: [DONE]\n\n")
