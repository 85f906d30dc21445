"""logind's word that the machine is about to sleep, and that it has woken (Linux).

The signal ``PrepareForSleep`` of org.freedesktop.login1.Manager (org.freedesktop.login1(5)): true
before, false after, also where the sleep came to nothing. Read with jeepney, D-Bus in plain Python,
which is imported here alone and only by whoever wants to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

SENDER: Final = "org.freedesktop.login1"
PATH: Final = "/org/freedesktop/login1"
INTERFACE: Final = "org.freedesktop.login1.Manager"
MEMBER: Final = "PrepareForSleep"
_GREETING: Final = 10.0  # seconds for a bus to let us in


async def listen(told: Callable[[bool], Awaitable[None]], ready: Callable[[], None]) -> NoReturn:
    """Call ``told`` with each signal's word, one after the other; ``ready`` once they are heard.

    Never returns. Raises OSError where there is no system bus or it is lost, EOFError,
    ImportError without jeepney, ValueError for a bus that speaks otherwise.
    """
    from jeepney import (  # type: ignore[import-untyped]
        HeaderFields,
        MatchRule,
        MessageType,
        message_bus,
    )
    from jeepney.wrappers import DBusErrorResponse  # type: ignore[import-untyped]

    connection = await _connected()
    try:
        rule = MatchRule(
            type="signal", sender=SENDER, interface=INTERFACE, member=MEMBER, path=PATH
        )
        asked = message_bus.AddMatch(rule)
        serial = next(connection.outgoing_serial)
        await connection.send(asked, serial=serial)
        while True:
            message = await connection.receive()
            header = message.header
            fields: dict[Any, Any] = header.fields
            if fields.get(HeaderFields.reply_serial) == serial:
                if header.message_type is MessageType.error:
                    raise ValueError(str(DBusErrorResponse(message)))
                ready()
            elif (
                header.message_type is MessageType.signal
                and fields.get(HeaderFields.member) == MEMBER
                and fields.get(HeaderFields.interface) == INTERFACE
                and len(message.body) == 1
            ):
                await told(bool(message.body[0]))
    finally:
        connection.writer.close()


async def _connected() -> Any:
    """A connection to the system bus; raises as :func:`listen` does.

    As jeepney's ``open_dbus_connection``, which leaves the socket open where the bus refuses or
    hangs up, or whoever waits is cancelled.
    """
    from jeepney import message_bus
    from jeepney.auth import BEGIN, Authenticator  # type: ignore[import-untyped]
    from jeepney.bus import get_bus  # type: ignore[import-untyped]
    from jeepney.io.asyncio import (  # type: ignore[import-untyped]
        DBusConnection,
        DBusRouter,
        Proxy,
    )
    from jeepney.wrappers import DBusErrorResponse

    reader, writer = await asyncio.open_unix_connection(get_bus("SYSTEM"))
    try:
        async with asyncio.timeout(_GREETING):
            authenticator = Authenticator()
            for line in authenticator:
                writer.write(line)
                await writer.drain()
                said = await reader.read(1024)
                if not said:
                    raise EOFError("the bus hung up before it knew us")
                authenticator.feed(said)
            writer.write(BEGIN)
            await writer.drain()
            connection = DBusConnection(reader, writer)
            async with DBusRouter(connection) as router:
                await Proxy(message_bus, router).Hello()
    except BaseException as error:
        writer.close()
        if isinstance(error, DBusErrorResponse):
            raise ValueError(str(error)) from error
        raise
    return connection
