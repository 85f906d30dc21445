"""What other machines reach, and that nobody opens that without a key by mistake. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.access.addresses import address_of
from daemon.config.settings import Settings
from daemon.core.problems import Code, Problem, ProblemError

FLAG = "--insecure-no-auth"
NO_KEY = (
    "Other machines are kept out: there is no key. `ctl lan on` makes one, or `ctl key add NAME`."
)
"""Of ``[lan]`` that is on without one."""


def is_local(host: str) -> bool:
    """Is this address reached from this machine alone? A name is looked up by nobody here: only
    ``localhost`` is known to be."""
    address = address_of(host)
    return address is not None and address.is_loopback


def exposed(settings: Settings) -> dict[str, str]:
    """The configured addresses that other machines reach, by the keys that name them; but those of
    ``[lan]``, which are opened only while there is a key (``daemon.network``)."""
    server = settings.server
    hosts = {"server.host": server.host}
    hosts |= {f"server.also[{i}].host": one.host or "" for i, one in enumerate(server.also)}
    return {key: host for key, host in hosts.items() if host and not is_local(host)}


def refuse_open(addresses: Sequence[str], any_key: bool, insecure: bool) -> None:
    """Raises ProblemError where ``addresses`` would be open to everyone, and nobody said so."""
    if not addresses or any_key or insecure:
        return
    shown = ", ".join(sorted(set(addresses)))
    raise ProblemError(
        Problem(
            Code.CONFIG_INVALID,
            f"{shown} is reached from other machines, and there is no key yet.",
            f"Make one: ctl key add NAME. (To let everyone in there use the models: {FLAG})",
        )
    )


def warning(addresses: Sequence[str], keys: Sequence[str], insecure: bool) -> str:
    """What is exposed, in one line for the log."""
    shown = ", ".join(sorted(set(addresses)))
    if insecure:
        return f"reached from other machines at {shown}: EVERYONE there may use the models ({FLAG})"
    return f"reached from other machines at {shown}, with a key only: {', '.join(keys)}"
