"""A published server of Python, as a function: server.py gunicorn|waitress|uvicorn|websockets PORT."""
import asyncio, sys, time

PIECES = 5


def wsgi(environ, start):
    path = environ["PATH_INFO"].rsplit("/", 1)[-1]
    if path == "echo":
        length = environ.get("CONTENT_LENGTH")
        body = environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if path == "stream":
        start("200 OK", [("Content-Type", "text/event-stream")])
        return (time.sleep(0.05) or b"data: %d\n\n" % n for n in range(PIECES))
    if path == "slow":
        time.sleep(0.3)
    # Also for "early": the body is not read.
    start("200 OK", [("Content-Length", "5")])
    return [b"hello"]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    path = scope["path"].rsplit("/", 1)[-1]

    async def respond(pieces, headers=()):
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def read():
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def events():
        for n in range(PIECES):
            await asyncio.sleep(0.05)
            yield b"data: %d\n\n" % n

    async def hello():
        if path == "slow":
            await asyncio.sleep(0.3)
        yield b"hello"

    if path == "echo":
        # Piece by piece, while it comes.
        await respond(read())
    elif path == "stream":
        await respond(events(), [(b"content-type", b"text/event-stream")])
    else:
        await respond(hello(), [(b"content-length", b"5")])


def main(kind, port):
    if kind == "gunicorn":
        from gunicorn.app.base import BaseApplication

        class Application(BaseApplication):
            def load_config(self):
                for name, value in {"bind": f"127.0.0.1:{port}", "worker_class": "gthread", "threads": 16,
                                    "loglevel": "error"}.items():
                    self.cfg.set(name, value)

            def load(self):
                return wsgi

        Application().run()
    elif kind == "waitress":
        import waitress

        waitress.serve(wsgi, host="127.0.0.1", port=port, threads=16, _quiet=True)
    elif kind == "uvicorn":
        import uvicorn

        uvicorn.run(asgi, host="127.0.0.1", port=port, log_level="error", access_log=False)
    elif kind == "websockets":
        from websockets.asyncio.server import serve

        async def echo(socket):
            async for message in socket:
                await socket.send(message)

        async def run():
            async with serve(echo, "127.0.0.1", port):
                await asyncio.get_running_loop().create_future()

        asyncio.run(run())


main(sys.argv[1], int(sys.argv[2]))
