"""What one writes in an afternoon: aiohttp's server, and aiohttp's client behind it.

python -P -m tests.bench.hops.afternoon PORT PLAIN STREAM
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web


def serve(port: int, plain: int, stream: int) -> None:
    drop = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}

    async def relay(request: web.Request) -> web.StreamResponse:
        base, path = plain, request.path_qs
        if path.startswith("/stream/"):
            base, path = stream, path.removeprefix("/stream")
        session = request.app[key]
        headers = {k: v for k, v in request.headers.items() if k.lower() not in drop}
        url = f"http://127.0.0.1:{base}{path}"
        body = await request.read()
        async with session.request(request.method, url, data=body, headers=headers) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in drop}
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    key = web.AppKey("session", ClientSession)

    async def main() -> None:
        app = web.Application(client_max_size=1 << 26)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        connector = TCPConnector(limit=0)
        async with ClientSession(
            connector=connector, timeout=ClientTimeout(total=None), auto_decompress=False
        ) as session:
            app[key] = session
            app.router.add_route("*", "/{path:.*}", relay)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
            await stop.wait()
            await runner.cleanup()

    uvloop.run(main())


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:4]))
