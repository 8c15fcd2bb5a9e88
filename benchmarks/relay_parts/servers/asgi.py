"""What is written with care with Starlette: one Redis subscription for the process, a queue for each socket."""

import asyncio
import contextlib
import os

import redis.asyncio as redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

BUFFERED = 1_000  # events a socket may be behind before it is cut off


class Hub:
    """All sockets of the process. An event is parsed and formatted once for all that watch its job."""

    def __init__(self) -> None:
        self._pubsub = redis.Redis.from_url(os.environ["REDIS_URL"]).pubsub(ignore_subscribe_messages=True)
        self._queues: dict[bytes, set[asyncio.Queue[str | None]]] = {}
        self._ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def watch(self, job_id: str):
        """A queue of the job's events; None in it is the end."""
        channel = f"service:job:{job_id}:events".encode()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        watchers = self._queues.setdefault(channel, set())
        watchers.add(queue)
        if len(watchers) == 1:
            await self._pubsub.subscribe(channel)
        try:
            yield queue
        finally:
            watchers.discard(queue)
            if not watchers:
                self._queues.pop(channel, None)
                await self._pubsub.unsubscribe(channel)

    async def run(self) -> None:
        await self._pubsub.subscribe("keepalive")  # listen() ends when nothing is subscribed
        async for message in self._pubsub.listen():
            event_id, kind, data = message["data"].decode().split(" ", 2)
            job_id = message["channel"].decode().split(":")[2]
            text = f'{{"id":"{event_id}","job_id":"{job_id}","type":"{kind}","data":{data}}}'
            for queue in self._queues.get(message["channel"], ()):
                queue.put_nowait(text if queue.qsize() < BUFFERED else None)


async def events(ws: WebSocket) -> None:
    """Each event from now on; there is no snapshot, and no log is read."""
    await ws.accept()
    async with ws.app.state.hub.watch(ws.path_params["job_id"]) as queue:
        sender = asyncio.create_task(_send(ws, queue))
        try:
            with contextlib.suppress(WebSocketDisconnect):
                while True:  # a client that goes is heard of here only
                    await ws.receive_text()
        finally:
            sender.cancel()


async def _send(ws: WebSocket, queue: "asyncio.Queue[str | None]") -> None:
    while (text := await queue.get()) is not None:
        await ws.send_text(text)
    await ws.close(1013)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette):
    app.state.hub = Hub()
    running = asyncio.create_task(app.state.hub.run())
    yield
    running.cancel()


app = Starlette(routes=[WebSocketRoute("/v1/jobs/{job_id}/events", events)], lifespan=_lifespan)
