"""Servers that trickle, and servers that repeat the key."""

import socket
import threading
import time

import pytest

from cotlens import TraceError
from cotlens.judges import requests
from cotlens.judges.endpoint import EndpointGuard
from cotlens.judges.verdict import Item, Part

ITEM = Item("2+2?", "So 4.", Part.THINKING)
KEY = "sk-secret-1234567890"

pytestmark = pytest.mark.usefixtures("short_waits")

# What comes before an endless drip, byte by byte.
BEGINNINGS = {
    "headers": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "1xx": b"",
    "chunk sizes": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
    "error body": b"HTTP/1.1 500 Oops\r\nContent-Length: 9999\r\n\r\n",
}
DRIPS = {"1xx": b"HTTP/1.1 100 Continue\r\n\r\n", "chunk sizes": b"0"}


@pytest.fixture
def trickle(request):
    """A server that begins to answer and never ends; every single read is within its timeout."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    is_over = threading.Event()

    def answer(connection):
        with connection:
            try:
                connection.sendall(BEGINNINGS[request.param])
                while not is_over.is_set():
                    connection.sendall(DRIPS.get(request.param, b"a"))
                    time.sleep(0.02)
            except OSError:  # the client gave up
                pass

    def serve():
        while not is_over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=answer, args=[connection]).start()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    is_over.set()
    thread.join()
    listener.close()


@pytest.mark.parametrize("trickle", BEGINNINGS, indirect=True)
def test_the_deadline_is_of_the_whole_exchange(trickle, monkeypatch):
    monkeypatch.setattr(requests, "RETRIES", 1)
    started = time.monotonic()
    with pytest.raises(TraceError, match=r"did not answer: TimeoutError|did not answer: "):
        EndpointGuard(trickle, "m", timeout=0.4).judge([ITEM])
    assert time.monotonic() - started < 10


def test_a_key_with_a_line_break_is_sent_without(server):
    url, script, seen = server
    script.append((200, '{"choices": [{"message": {"content": "safe"}}]}', 0))
    EndpointGuard(url, "m", key=KEY + "\n").judge([ITEM])
    assert seen[0][1] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_a_server_repeats_is_not_shown(server, status, monkeypatch):
    monkeypatch.setattr(requests, "RETRIES", 1)
    url, script, _ = server
    script.append((status, f'{{"error": "bad key {KEY}"}}', 0))
    said = []
    with pytest.raises(TraceError) as caught:
        EndpointGuard(url, "m", key=KEY, on_retry=said.append).judge([ITEM])
    assert KEY not in str(caught.value) + "".join(said)
    assert "***" in str(caught.value)


def test_a_password_in_an_address_is_not_shown():
    with pytest.raises(TraceError) as caught:
        EndpointGuard("http://me:hunter22@host/v1", "m")
    assert "hunter22" not in str(caught.value)
    with pytest.raises(TraceError) as caught:
        EndpointGuard("ftp://me:hunter22@host/v1", "m")
    assert "hunter22" not in str(caught.value)
