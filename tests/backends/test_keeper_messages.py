"""Orders and hellos as values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.backends.keeper import ORDER
from daemon.backends.keeper_messages import (
    ExecFailed,
    Exited,
    Gone,
    Hello,
    KeeperError,
    Lines,
    LogTrouble,
    Order,
    OrderFile,
)

HELLO: dict[str, Any] = {
    "protocol": 1,
    "backend": "qwen",
    "generation": 3,
    "facts": {"port": 1},
    "keeper_pid": 98,
    "pid": 99,
    "start": "boot:1",
    "argv": ["llama-server", "-m"],
    "log_bytes": 5,
    "log_dropped": 0,
    "lines": [],
    "error": None,
    "exit": None,
    "gone": False,
    "new in a later keeper": 1,
}


def test_an_order_is_one_line_with_every_field_that_the_keeper_reads() -> None:
    order = Order(
        backend="qwen",
        generation=3,
        argv=("a", "b\n\udcff"),
        env={"KEY": "s3cret"},
        socket=Path("/run/b.sock"),
        record=Path("/run/b.json"),
        log=Path("/log/b.log"),
        log_max_bytes=1,
        log_keep=2,
        mode="service",
        grace=60,
        stop_grace=8,
        files=(OrderFile(Path("/run/key"), "s3cret"),),
        facts={"secret": "s3cret"},
    )
    line = order.encode()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    read = json.loads(line)
    assert read.keys() == ORDER.keys()
    assert (read["protocol"], read["argv"], read["cwd"]) == (1, ["a", "b\n\udcff"], None)
    assert read["files"] == [{"path": "/run/key", "text": "s3cret"}]
    assert "s3cret" not in repr(order)


def test_what_happened_before_a_connection_is_told_in_order() -> None:
    assert Hello.decode(HELLO).events() == []
    ended = {"type": "exit", "status": -6, "at": 1.5, "lines": ["oom"]}
    hello = Hello.decode({**HELLO, "lines": ["oom"], "exit": ended})
    assert hello.events() == [Lines(("oom",)), Exited(-6, 1.5, ("oom",))]
    ended |= {"time": 7, "stopped": True, "last": "that is it"}
    hello = Hello.decode({**HELLO, "exit": ended, "log_dropped": 5, "log_errno": 28})
    assert hello.events() == [LogTrouble(5, 28), Exited(-6, 1.5, ("oom",), 7.0, True, "that is it")]
    hello = Hello.decode({**HELLO, "error": {"errno": 2, "text": "no"}, "gone": True})
    assert hello.events() == [ExecFailed(2, "no"), Gone()]


def test_a_hello_that_is_none_is_refused_with_what_is_wrong() -> None:
    with pytest.raises(KeeperError, match="protocol 2, not 1"):
        Hello.decode({**HELLO, "protocol": 2})
    for name in HELLO.keys() - {"protocol", "new in a later keeper"}:
        with pytest.raises(KeeperError, match=f"lacks something: .*{name}"):
            Hello.decode({key: value for key, value in HELLO.items() if key != name})
    with pytest.raises(KeeperError, match="lacks something"):
        Hello.decode({**HELLO, "argv": 7})
