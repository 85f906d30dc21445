"""A stand-in for the host of releases: lists them, serves files by range, and fails as told."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def program(build: str = "", version: str = "9001 (abc1234)") -> str:
    """A llama-server that says what it is. ``build``: the name of a device; "broken": it does not
    run at all."""
    if build == "broken":
        return "#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2\nexit 1\n"
    device = f"echo '  {build}0: A card (24000 MiB, 23000 MiB free)'" if build else ":"
    return (
        "#!/bin/sh\ncase $1 in\n"
        "--help) echo '-m, --model FNAME   the model'; echo '--port PORT   the port';"
        " echo '--list-devices   what there is' ;;\n"
        f"--version) echo 'version: {version}' ;;\n"
        f"--list-devices) echo 'Available devices:'; {device} ;;\nesac\n"
    )


def archive(files: Mapping[str, str]) -> bytes:
    """A .tar.gz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


@dataclass
class Releases:
    """``files`` by tag and name. ``cuts``: after so many bytes a connection is broken, one after
    the other. ``lies``: names whose checksum is another. ``asked``: ranges, in order."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    lies: set[str] = field(default_factory=set)
    unsigned: set[str] = field(default_factory=set)
    status: int = 200  # of the listing
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def listing(self, tag: str) -> dict[str, Any]:
        assets = []
        for name, data in self.files[tag].items():
            digest = hashlib.sha256(b"x" + data if name in self.lies else data).hexdigest()
            one: dict[str, Any] = {
                "name": name, "size": len(data),
                "browser_download_url": f"{self.url}/files/{tag}/{name}",
            }  # fmt: skip
            if name not in self.unsigned:
                one["digest"] = f"sha256:{digest}"
            assets.append(one)
        return {"tag_name": tag, "assets": assets}


@contextmanager
def serving(releases: Releases) -> Iterator[Releases]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/files/"):
                return self.file()
            tag = self.path.rpartition("/")[2]
            tag = next(reversed(releases.files)) if tag == "latest" else tag
            status = releases.status if tag in releases.files else 404
            body = json.dumps(releases.listing(tag) if status == 200 else {}).encode()
            self.answer(status, body)
            return None

        def file(self) -> None:
            _, _, tag, name = self.path.split("/")
            data = releases.files[tag][name]
            wanted = self.headers.get("Range", "")
            releases.asked.append(wanted)
            found = re.fullmatch(r"bytes=(\d+)-", wanted)
            at = int(found[1]) if found and releases.ranges else 0
            headers = {"Content-Range": f"bytes {at}-{len(data) - 1}/{len(data)}"} if at else {}
            cut = releases.cuts.pop(0) if releases.cuts else None
            self.answer(206 if at else 200, data[at:], headers, cut)

        def answer(
            self,
            status: int,
            body: bytes,
            headers: Mapping[str, str] | None = None,
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if cut is None else body[:cut])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    releases.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield releases
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
