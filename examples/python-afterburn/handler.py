"""Greets whoever the body names, and counts its calls: it is one process for all of them.

What it says to people goes to stderr: stdout is for answers.
"""

import sys

requests, answers = sys.stdin.buffer, sys.stdout.buffer
calls = 0
while line := requests.readline():
    method, path, _ = line.decode("latin-1").split(" ", 2)
    length = 0
    while header := requests.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    who = requests.read(length).decode().strip() or "world"
    calls += 1
    text = f"Hello, {who}, from Python, call {calls} ({method} {path})\n".encode()
    answers.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n")
    answers.write(b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
    answers.flush()
