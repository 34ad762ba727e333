"""An endpoint on this machine that takes its time, for tests and a benchmark of many requests."""

import http.server
import json
import threading
import time

from cotlens.judges.verdict import Item, Part


class Slow(http.server.ThreadingHTTPServer):
    """An endpoint that thinks for some time, and notes how many requests it had at once."""

    request_queue_size = 64

    def __init__(self, seconds):
        super().__init__(("127.0.0.1", 0), Answer)
        self.seconds = seconds
        self.lock = threading.Lock()
        self.n_asked = self.n_now = self.most = self.n_answered = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Answer(http.server.BaseHTTPRequestHandler):
    """Unsafe is what says `bad`."""

    def do_POST(self):
        server = self.server
        with server.lock:
            server.n_asked += 1
            server.n_now += 1
            server.most = max(server.most, server.n_now)

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(server.seconds)
        text = body["messages"][0]["content"].split("<text_to_judge>")[1]
        content = json.dumps({"unsafe": "bad" in text, "refusal": False, "category": ""})
        choice = {"message": {"content": content}, "finish_reason": "stop"}

        with server.lock:
            server.n_now -= 1
            server.n_answered += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [choice]}).encode())

    def log_message(self, *_):
        pass


def items(n):
    return [Item("p", f"{'bad' if k % 3 == 0 else 'fine'} {k}", Part.ANSWER) for k in range(n)]
