"""Fixtures of endpoints: a server that stands in for one, and waits that are short."""

import http.server
import json
import threading
import time

import pytest

from cotlens.judges import requests


@pytest.fixture
def short_waits(monkeypatch):
    """Retries come at once."""
    monkeypatch.setattr(requests, "FIRST_WAIT", 0.01)


@pytest.fixture
def server():
    """A real HTTP server: its address, what it will answer, and what it was asked.

    An answer is (status, body, seconds). The last one is repeated.
    """
    script = []
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            seen.append((request, self.headers.get("Authorization")))

            status, body, seconds = script.pop(0) if len(script) > 1 else script[0]
            time.sleep(seconds)
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())
            except OSError:  # the client gave up
                pass

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", script, seen
    httpd.shutdown()
    httpd.server_close()
    thread.join()
