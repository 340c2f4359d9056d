"""A server on loopback that does to each request what a test wants."""

import http.server
import threading

import numpy as np

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Gives the replies of `replies`, one for each request, and then honest ones."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.replies, self.asked = CONTENT, [], []
        self.files = {}  # by name, instead of `content`
        self.leave = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/files/birds.tgz?download=1"

    def handle_error(self, request, client_address):
        pass  # a client that goes away is no failure here


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        reply = self.server.replies.pop(0) if self.server.replies else honest
        reply(self)

    def start(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    @property
    def first(self):
        return int((self.headers.get("Range") or "bytes=0-")[6:-1])


def honest(handler, *, until=None, content=None):
    """The whole, or what was asked for; `until` breaks off after that byte of the file."""
    name = handler.path.partition("?")[0].rsplit("/", 1)[1]
    content = content or handler.server.files.get(name, handler.server.content)
    first = handler.first
    if first >= len(content):
        handler.start(416, Content_Range=f"bytes */{len(content)}")
        return
    headers = {"Content_Length": len(content) - first}
    if first:
        headers["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
    handler.start(206 if first else 200, **headers)
    handler.wfile.write(content[first:until])
