"""Published clients of Python: client.py requests|httpx|aiohttp|websockets URL.

Prints what went wrong, and how many things were tried."""
import asyncio, os, sys, time

BODIES = [b"", b"x", os.urandom(3000), os.urandom(300_000)]
EVENTS = b"".join(b"data: %d\n\n" % n for n in range(5))
tried = 0


def check(name, found, wanted):
    global tried
    tried += 1
    if found != wanted:
        print(f"{name}: {str(found)[:200]} instead of {str(wanted)[:200]}")


def pieces(body):
    for at in range(0, len(body), 1000):
        yield body[at:at + 1000]


async def slowly(body):
    for piece in pieces(body):
        await asyncio.sleep(0)
        yield piece


def with_requests(url):
    import requests

    with requests.Session() as session:
        for _ in range(3):
            for body in BODIES:
                check("echo", session.post(url + "/echo", data=body).content, body)
                check("echo in chunks", session.post(url + "/echo", data=pieces(body)).content, body)
                check("early", session.post(url + "/early", data=body).content, b"hello")
            check("stream", b"".join(session.get(url + "/stream", stream=True).iter_content(None)), EVENTS)
            check("HEAD", session.head(url + "/plain").headers["content-length"], "5")
        # Leaves at each moment.
        for moment in range(0, 300, 20):
            try:
                session.get(url + "/slow", timeout=moment / 1000 + 0.001)
            except requests.exceptions.RequestException:
                pass
            check("after one that left", session.get(url + "/plain").content, b"hello")


def with_httpx(url):
    import httpx

    with httpx.Client(timeout=20) as client:
        for _ in range(3):
            for body in BODIES:
                check("echo", client.post(url + "/echo", content=body).content, body)
                check("echo in chunks", client.post(url + "/echo", content=pieces(body)).content, body)
                check("early", client.post(url + "/early", content=body).content, b"hello")
            with client.stream("GET", url + "/stream") as response:
                check("stream", b"".join(response.iter_raw()), EVENTS)
            for count in range(5):
                with client.stream("GET", url + "/stream") as response:
                    for number, _ in enumerate(response.iter_raw()):
                        if number == count:
                            break
                check("after a stream that was left", client.get(url + "/plain").content, b"hello")


async def with_aiohttp(url):
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async def fetch(method, path, data=None):
            async with session.request(method, url + path, data=data) as response:
                return await response.read()

        for _ in range(3):
            for body in BODIES:
                check("echo", await fetch("POST", "/echo", body), body)
                check("echo in chunks", await fetch("POST", "/echo", slowly(body)), body)
                check("early", await fetch("POST", "/early", body), b"hello")
            found = await asyncio.gather(*(fetch("GET", "/stream") for _ in range(20)))
            check("streams side by side", found, [EVENTS] * 20)
        for moment in range(0, 300, 20):
            try:
                await asyncio.wait_for(fetch("POST", "/slow", slowly(BODIES[3])), moment / 1000 + 0.001)
            except (asyncio.TimeoutError, aiohttp.ClientError):
                pass
            check("after one that left", await fetch("GET", "/plain"), b"hello")


async def with_websockets(url):
    from websockets.asyncio.client import connect

    for length in [0, 1, 125, 126, 70_000, 900_000]:
        async with connect(url.replace("http", "ws", 1)) as socket:
            for message in [os.urandom(length), "é" * (length // 2)]:
                await socket.send(message)
                check("message", await socket.recv(), message)
            await asyncio.wait_for(await socket.ping(), 10)
    for _ in range(20):
        socket = await connect(url.replace("http", "ws", 1))
        socket.transport.abort()


name, url = sys.argv[1:]
run = globals()["with_" + name](url)
if asyncio.iscoroutine(run):
    asyncio.run(run)
print(f"tried {tried}")
