"""Requests that must be refused, and requests that must pass, to the byte. Each with a name."""

from __future__ import annotations

H = b"Host: 127.0.0.1\r\n"
J = b"Content-Type: application/json\r\n"
BODY = b'{"model":"m"}'
P = b"POST /v1/chat/completions HTTP/1.1\r\n"
CL = b"Content-Length: 13\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"


def _line(line: bytes) -> bytes:
    return P + H + J + line + b"\r\n" + CL + b"\r\n" + BODY


def _chunks(data: bytes) -> bytes:
    return P + H + J + TE + b"\r\n" + data


def _start(line: bytes) -> bytes:
    return line + b"\r\n" + H + J + CL + b"\r\n" + BODY


REFUSED: dict[str, bytes] = {
    # the request line
    "http/0.9": b"GET /health\r\n\r\n",
    "http/2.0": _start(b"POST /v1/chat/completions HTTP/2.0"),
    "http/1.2": _start(b"POST /v1/chat/completions HTTP/1.2"),
    "http/1.10": _start(b"POST /v1/chat/completions HTTP/1.10"),
    "http/01.1": _start(b"POST /v1/chat/completions HTTP/01.1"),
    "http lower case": _start(b"POST /v1/chat/completions http/1.1"),
    "version missing": _start(b"POST /v1/chat/completions"),
    "version alone": _start(b"POST /v1/chat/completions HTTP/"),
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two spaces": _start(b"POST  /v1/chat/completions HTTP/1.1"),
    "tab for space": _start(b"POST\t/v1/chat/completions HTTP/1.1"),
    "space at end": _start(b"POST /v1/chat/completions HTTP/1.1 "),
    "space first": _start(b" POST /v1/chat/completions HTTP/1.1"),
    "method lower case": _start(b"post /v1/chat/completions HTTP/1.1"),
    "method with colon": _start(b"PO:ST /v1/chat/completions HTTP/1.1"),
    "method empty": _start(b" /v1/chat/completions HTTP/1.1"),
    "method long": _start(b"P" * 30 + b" /v1/chat/completions HTTP/1.1"),
    "absolute-form": _start(b"POST http://127.0.0.1/v1/chat/completions HTTP/1.1"),
    "absolute-form elsewhere": _start(b"POST http://evil/v1/chat/completions HTTP/1.1"),
    "authority-form": b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + H + b"\r\n",
    "asterisk-form": b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n",
    "no slash": _start(b"POST v1/chat/completions HTTP/1.1"),
    "space in target": _start(b"POST /v1/chat completions HTTP/1.1"),
    "nul in target": _start(b"POST /v1/chat\x00 HTTP/1.1"),
    "del in target": _start(b"POST /v1/chat\x7f HTTP/1.1"),
    "8 bit in target": _start("POST /v1/é HTTP/1.1".encode()),
    "fragment": _start(b"POST /v1/chat/completions#x HTTP/1.1"),
    "cr in target": _start(b"POST /v1/\rchat HTTP/1.1"),
    "bare lf after request line": P.replace(b"\r\n", b"\n") + H + CL + b"\r\n" + BODY,
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "garbage": b"\x00\x01\x02\x03\r\n\r\n",
    "two empty lines first": b"\r\n\r\n" + P + H + J + CL + b"\r\n" + BODY,
    # header lines
    "no host": P + J + CL + b"\r\n" + BODY,
    "host twice": P + H + H + J + CL + b"\r\n" + BODY,
    "host twice, other": P + H + b"Host: evil\r\n" + J + CL + b"\r\n" + BODY,
    "host twice on 1.0": b"GET /health HTTP/1.0\r\n" + H + H + b"\r\n",
    "obs-fold": _line(b"X-A: b\r\n c"),
    "obs-fold tab": _line(b"X-A: b\r\n\tc"),
    "fold first": P + b" X: y\r\n" + H + CL + b"\r\n" + BODY,
    "space before colon": _line(b"X-A : b"),
    "tab before colon": _line(b"X-A\t: b"),
    "space in name": _line(b"X A: b"),
    "no colon": _line(b"X-A"),
    "empty name": _line(b": b"),
    "bare lf": _line(b"X-A: b\nX-B: c"),
    "bare cr": _line(b"X-A: b\rX-B: c"),
    "nul in value": _line(b"X-A: b\x00c"),
    "nul in name": _line(b"X-\x00A: b"),
    "vt in value": _line(b"X-A: b\x0bc"),
    "esc in value": _line(b"X-A: \x1b[31m"),
    "del in value": _line(b"X-A: b\x7fc"),
    "8 bit name": _line(b"X-\xe9: b"),
    "101 fields": P + H + J + CL + b"X-A: b\r\n" * 100 + b"\r\n" + BODY,
    "head of 65 KiB": _line(b"X-A: " + b"b" * 66_000),
    "name in brackets": _line(b"[X]: b"),
    "quoted name": _line(b'"X": b'),
    # content-length
    "cl twice, same": P + H + J + CL + CL + b"\r\n" + BODY,
    "cl twice, other": P + H + J + CL + b"Content-Length: 5\r\n\r\n" + BODY,
    "cl list": _start(P[:-2]).replace(CL, b"Content-Length: 13, 13\r\n"),
    "cl plus": _start(P[:-2]).replace(CL, b"Content-Length: +13\r\n"),
    "cl minus": _start(P[:-2]).replace(CL, b"Content-Length: -13\r\n"),
    "cl hex": _start(P[:-2]).replace(CL, b"Content-Length: 0xd\r\n"),
    "cl empty": _start(P[:-2]).replace(CL, b"Content-Length: \r\n"),
    "cl float": _start(P[:-2]).replace(CL, b"Content-Length: 13.0\r\n"),
    "cl inner space": _start(P[:-2]).replace(CL, b"Content-Length: 1 3\r\n"),
    "cl underscore": _start(P[:-2]).replace(CL, b"Content-Length: 1_3\r\n"),
    "cl huge": _start(P[:-2]).replace(CL, b"Content-Length: " + b"9" * 40 + b"\r\n"),
    "cl arabic digits": _start(P[:-2]).replace(CL, "Content-Length: ١٣\r\n".encode()),
    "cl and te": P + H + J + CL + TE + b"\r\n" + CHUNKS,
    "te and cl": P + H + J + TE + CL + b"\r\n" + CHUNKS,
    # transfer-encoding
    "te on 1.0": b"POST /v1/chat/completions HTTP/1.0\r\n" + H + J + TE + b"\r\n" + CHUNKS,
    "te twice": P + H + J + TE + TE + b"\r\n" + CHUNKS,
    "te list": P + H + J + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "te chunked twice": P + H + J + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "te identity": P + H + J + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS,
    "te xchunked": P + H + J + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "te quoted": P + H + J + b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKS,
    "te empty": P + H + J + b"Transfer-Encoding:\r\n\r\n" + CHUNKS,
    "te with parameter": P + H + J + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNKS,
    "te tab": P + H + J + b"Transfer-Encoding: chunked\t\r\n\r\n" + CHUNKS,
    "cl tab": _start(P[:-2]).replace(CL, b"Content-Length:\t13\r\n"),
    "te vt": P + H + J + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKS,
    # chunks
    "chunk size not hex": _chunks(b"g\r\n" + BODY),
    "chunk size negative": _chunks(b"-d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size 0x": _chunks(b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size empty": _chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size blank": _chunks(b" d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size blank after": _chunks(b"d \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size too long": _chunks(b"0" * 17 + b"d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size huge": _chunks(b"ffffffffffffffff\r\n" + BODY),
    "chunk bare lf": _chunks(b"d\n" + BODY + b"\n0\n\n"),
    "chunk line endless": _chunks(b"d;" + b"x" * 400),
    "chunk longer than said": _chunks(b"c\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk lf behind data": _chunks(b"d\r\n" + BODY + b"\n0\r\n\r\n"),
    "trailer malformed": _chunks(b"d\r\n" + BODY + b"\r\n0\r\nno colon\r\n\r\n"),
    "trailer folded": _chunks(b"d\r\n" + BODY + b"\r\n0\r\nX: a\r\n b\r\n\r\n"),
    "trailer endless": _chunks(b"d\r\n" + BODY + b"\r\n0\r\nX: " + b"a" * 9000),
    # others
    "expect other": _line(b"Expect: 200-ok"),
    "expect twice": _line(b"Expect: 100-continue\r\nExpect: 100-continue"),
    "content-type twice": _line(b"Content-Type: text/plain"),
    "gzip body": _line(b"Content-Encoding: gzip"),
}

PASSED: dict[str, bytes] = {
    "plain": P + H + J + CL + b"\r\n" + BODY,
    "names in any case": P + b"hOsT: 127.0.0.1\r\n" + J + b"CONTENT-LENGTH: 13\r\n\r\n" + BODY,
    "no blank after colon": P + b"Host:127.0.0.1\r\nContent-Length:13\r\n\r\n" + BODY,
    "blanks around values": P + b"Host: \t 127.0.0.1 \t\r\nContent-Length:  13  \r\n\r\n" + BODY,
    "empty value": _line(b"X-A:"),
    "8 bit value": _line("X-A: é".encode()),
    "tab in value": _line(b"X-A: b\tc"),
    "colons in value": _line(b"X-A: b:c:d"),
    "odd token": _line(b"!#$%&'*+-.^_`|~09aZ: b"),
    "localhost": P + b"Host: localhost\r\n" + CL + b"\r\n" + BODY,
    "localhost with port": P + b"Host: localhost:8123\r\n" + CL + b"\r\n" + BODY,
    "ipv6 host": P + b"Host: [::1]:8123\r\n" + CL + b"\r\n" + BODY,
    "query": P.replace(b"completions ", b"completions?beta=true&x=%20 ") + H + CL + b"\r\n" + BODY,
    "chunked": _chunks(CHUNKS),
    "chunked in any case": P + H + b"Transfer-Encoding: ChunKed\r\n\r\n" + CHUNKS,
    "chunk size with zeros": _chunks(b"000d\r\n" + BODY + b"\r\n000\r\n\r\n"),
    "chunk size upper case": _chunks(b"D\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension": _chunks(b'd;a="b";c\r\n' + BODY + b"\r\n0;end\r\n\r\n"),
    "chunks of one byte": _chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "trailer": _chunks(b"d\r\n" + BODY + b"\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"),
    "expect": _line(b"Expect: 100-Continue"),
    "http/1.0": b"POST /v1/chat/completions HTTP/1.0\r\n" + H + CL + b"\r\n" + BODY,
    "http/1.0 without host": b"POST /v1/chat/completions HTTP/1.0\r\n" + CL + b"\r\n" + BODY,
    "an empty line first": b"\r\n" + P + H + CL + b"\r\n" + BODY,
    "connection close": _line(b"Connection: close"),
    "upgrade is ignored": _line(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"),
    "100 fields": P + H + J + CL + b"X-A: b\r\n" * 97 + b"\r\n" + BODY,
    "cl with zeros": P + H + b"Content-Length: 0013\r\n\r\n" + BODY,
    "identity": _line(b"Content-Encoding: identity"),
    "te header": _line(b"Connection: TE\r\nTE: trailers"),
}
