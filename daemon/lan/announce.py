"""Being found on the network (mDNS, DNS-SD: RFC 6762 and 6763) as ``_modelport._tcp``.

Never anything secret: everybody on the network reads it, and anybody may say the like.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

KIND: Final = "_modelport._tcp.local."
_LABEL: Final = 63  # bytes (RFC 1035)
PREFIX: Final = 16
"""Letters of the fingerprint that are told: enough to compare, and what is pinned is the whole."""


@dataclass(frozen=True, slots=True)
class Told:
    """All that is announced."""

    name: str
    addresses: tuple[str, ...]
    port: int
    version: str
    fingerprint: str  # "" without TLS

    @property
    def properties(self) -> Mapping[str, str]:
        """The TXT record."""
        short = self.fingerprint.replace(":", "").lower()[:PREFIX]
        plain = {"txtvers": "1", "version": self.version, "path": "/v1"}
        return {**plain, **({"tls": short} if short else {})}


class Announcement:
    """At most one at a time: :meth:`tell` replaces it, :meth:`end` takes it back."""

    def __init__(self) -> None:
        # A host name of our own: the system's responder, if there is one, answers for the usual
        # one, and two machines may have the same.
        self._server = f"modelport-{os.urandom(4).hex()}.local."
        self.told: Told | None = None
        self.name = ""  # as it was accepted; another program may have had the wanted one
        self._service: ServiceInfo | None = None
        self._zeroconf: AsyncZeroconf | None = None

    async def tell(self, told: Told, seconds: float) -> None:
        """Announce this from now on. Raises OSError, TimeoutError: then nothing is announced."""
        await self.end(seconds)
        library = await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")
        base = await asyncio.to_thread(importlib.import_module, "zeroconf")
        self._service = base.ServiceInfo(
            KIND,
            f"{label(told.name)}.{KIND}",
            port=told.port,
            properties=dict(told.properties),
            server=self._server,
            addresses=[_packed(address) for address in told.addresses],
        )
        try:
            self._zeroconf = library.AsyncZeroconf(interfaces=list(told.addresses))
            async with asyncio.timeout(seconds):
                await (
                    await self._zeroconf.async_register_service(
                        self._service, allow_name_change=True
                    )
                )
        except BaseException as error:
            await self.end(seconds)
            if isinstance(error, base.Error):
                raise OSError(str(error) or type(error).__name__) from error
            raise
        self.told = told
        self.name = self._service.name.removesuffix(f".{KIND}")

    async def end(self, seconds: float) -> None:
        """Say goodbye, ``seconds`` at most."""
        zeroconf, self._zeroconf = self._zeroconf, None
        self.told, self.name = None, ""
        if zeroconf is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await zeroconf.async_unregister_all_services()
                await zeroconf.async_close()
        except (OSError, TimeoutError):  # the network has gone: nobody is there to be told
            zeroconf.zeroconf.close()
        except asyncio.CancelledError:  # nobody else knows of its sockets
            zeroconf.zeroconf.close()
            raise


def label(text: str) -> str:
    """One label of a name: no dots, which would part it, and no more than fit."""
    kept = "".join(char for char in text.replace(".", "-") if char.isprintable())
    raw = kept.encode()[: _LABEL - len("-99")]  # room for telling two of a name apart
    return raw.decode("utf-8", "ignore").strip() or "modelport"


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
