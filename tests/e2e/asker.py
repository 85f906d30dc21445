"""Asks one server many things, from wherever it is started: ``python -I asker.py < JSON``.

In: ``{"host", "port", "ca" (or null: plain), "asks": [[method, path, headers, body], …]}``.
Out: ``[[status, body], …]``; a connection that fails gives ``[0, "what"]``.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from typing import Any


def main() -> None:
    told = json.load(sys.stdin)
    print(json.dumps([one(told, *ask) for ask in told["asks"]]))


def one(
    told: dict[str, Any], method: str, path: str, headers: dict[str, str], body: str | None
) -> tuple[int, str]:
    if told["ca"]:
        trust = ssl.create_default_context(cafile=told["ca"])
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            told["host"], told["port"], timeout=60, context=trust
        )
    else:
        connection = http.client.HTTPConnection(told["host"], told["port"], timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        sent = {"Content-Type": "application/json", **headers}
        raw = (body or "").encode()
        for name, value in {**sent, "Content-Length": str(len(raw))}.items():
            connection.putheader(name, value)
        connection.endheaders(raw)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    main()
