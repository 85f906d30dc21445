"""logind's word that the machine is about to sleep, and that it has woken (Linux).

The signal ``PrepareForSleep`` of org.freedesktop.login1.Manager (org.freedesktop.login1(5)): true
before, false after, also where the sleep came to nothing. Read with jeepney, D-Bus in plain Python,
which is imported here alone and only by whoever wants to know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

SENDER: Final = "org.freedesktop.login1"
PATH: Final = "/org/freedesktop/login1"
INTERFACE: Final = "org.freedesktop.login1.Manager"
MEMBER: Final = "PrepareForSleep"


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
    from jeepney.io.asyncio import open_dbus_connection  # type: ignore[import-untyped]
    from jeepney.wrappers import DBusErrorResponse  # type: ignore[import-untyped]

    connection = await open_dbus_connection("SYSTEM")
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
