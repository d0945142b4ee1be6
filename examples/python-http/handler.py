"""Greets whoever the body names, and counts its calls: it is one process for all of them."""

import itertools
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

calls = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    # Connections are kept: the watchdog uses them again.
    protocol_version = "HTTP/1.1"
    # Head and body go out together: apart, the second waits for the first to be acknowledged.
    wbufsize = -1

    def answer(self):
        name = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode().strip() or "world"
        text = f"Hello, {name}, from Python, call {next(calls)} ({self.command} {self.path})\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        """The watchdog and the gateway count calls; a line for each would only fill the log."""


ThreadingHTTPServer(("127.0.0.1", 5000), Handler).serve_forever()
