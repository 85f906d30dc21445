"""Keys at the front: who comes in with one, who does not, on every route and in every disguise."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.access.failures import ALLOWED, Failures
from daemon.access.keys import Ring, Wanted, make
from daemon.access.principals import ANYONE, LOCAL, Principal
from daemon.core.problems import Code, Problem, ProblemError
from daemon.dialects.manner import Manner
from daemon.ports import Hold, Tokens
from daemon.relay.admission import Admitted, Answered, admit
from daemon.relay.guard import Guard, Peer
from daemon.relay.heads import parse_head
from daemon.relay.limits import Limits
from daemon.relay.memo import again, learn
from daemon.relay.routes import listed
from tests.relay.peers import Backend as Scripted
from tests.relay.peers import Conn, World, both_loops, get, ok, post, world

NOW = 1_800_000_000.0
HERE = Peer.of(("127.0.0.1", 50000), ("127.0.0.1", 8123))
LAN = Peer.of(("192.168.1.7", 50000), ("192.168.1.2", 8123))
USE_KEY, USE = make(Wanted(name="laptop", priority=2), NOW)
DESK_KEY, DESK = make(Wanted(name="desk", scope="control"), NOW)
OLD_KEY, OLD = make(Wanted(name="old", scope="control", lasts=1), NOW - 2)
BUSY_KEY, BUSY = make(Wanted(name="busy", at_once=1), NOW)
OFTEN_KEY, OFTEN = make(Wanted(name="often", per_minute=2), NOW)
SHORT_KEY, SHORT = make(Wanted(name="short", lasts=60), NOW)
RING = Ring([USE_KEY, DESK_KEY, OLD_KEY, BUSY_KEY, OFTEN_KEY, SHORT_KEY])
CONTROL = [
    ("GET", "/control/v1/status"),
    ("POST", "/control/v1/shutdown"),
    ("POST", "/control/v1/models/m/unload"),
    ("GET", "/control"),
    ("GET", "/ui/"),
    ("GET", "/metrics"),
]
ROUTES = [
    *listed(),
    ("GET", "/v1/models/m"),
    ("POST", "/upstream/m/slots"),
    ("GET", "/nothing"),
    ("PATCH", "/v1/models"),
    *CONTROL,
]


def guard(*, keyless: bool = False, failures: Failures | None = None, now: float = NOW) -> Guard:
    many = failures if failures is not None else Failures(allowed=10**9)
    return Guard(
        cors_origins=["https://app.example"],
        keys=RING,
        failures=many,
        keyless=keyless,
        clock=lambda: now,
    )


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def decide(
    method: str,
    path: str,
    *fields: str,
    peer: Peer = LAN,
    host: str = "192.168.1.2:8123",
    by: Guard | None = None,
) -> Principal | Problem:
    lines = "".join(f"{line}\r\n" for line in fields)
    raw = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode("latin-1")
    limits = Limits(head_bytes=4 << 20)
    return (by or guard()).decide(parse_head(raw, limits), peer)


def code(found: Principal | Problem) -> Code | Principal:
    return found.code if isinstance(found, Problem) else found


# ---------------------------------------------------------------- nobody without one

WITHOUT = {
    "none": (),
    "wrong": (bearer("mp-" + "x" * 43),),
    "wrong, Anthropic's": ("x-api-key: mp-" + "x" * 43,),
    "wrong, Azure's": ("api-key: mp-" + "x" * 43,),
    "another's": (bearer("sk-" + "x" * 43),),
    "empty": ("Authorization: Bearer",),
    "empty, Anthropic's": ("x-api-key:",),
    "not ASCII": ("x-api-key: mp-\xe9\xff\xfe",),
    "1 MB": ("x-api-key: mp-" + "x" * (1 << 20),),
    "expired": (bearer(OLD),),
    "cut": (bearer(USE[:-1]),),
    "longer": (bearer(USE + "a"),),
    "another case": (bearer(USE.swapcase()),),
    "as Basic": (f"Authorization: Basic {USE}",),
    "bare": (f"Authorization: {USE}",),
    "two of them": (f"Authorization: Bearer {USE}, {DESK}",),
    "in a cookie": (f"Cookie: key={DESK}",),
    "from a proxy": ("X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Real-IP: ::1"),
    "as the front": (
        "X-Modelport-Secret: x",
        "X-Modelport-Principal: owner",
        "X-Modelport-Scopes: control use",
    ),
}


@pytest.mark.parametrize("how", WITHOUT)
def test_no_route_is_open_from_another_machine(how: str) -> None:
    said = set()
    for method, path in ROUTES:
        found = decide(method, path, *WITHOUT[how])
        assert isinstance(found, Problem), (method, path)
        assert found.code is Code.UNAUTHORIZED
        said.add((found.text, path.startswith(("/control", "/ui", "/metrics"))))
    assert len(said) == 2, "one text for the models, one for the control plane"


def test_a_key_in_the_query_is_none() -> None:
    for method, path in ROUTES:
        for name in ("key", "api_key", "api-key", "x-api-key", "token", "access_token"):
            assert code(decide(method, f"{path}?{name}={DESK}")) is Code.UNAUTHORIZED


def test_a_missing_and_a_wrong_key_are_told_the_same() -> None:
    for method, path in ROUTES:
        answers = {repr(decide(method, path, *fields)) for fields in WITHOUT.values()}
        assert len(answers) == 1


HOSTILE = {
    "evil origin": ("Origin: https://evil.example",),
    "null origin": ("Origin: null",),
    "empty origin": ("Origin:",),
    "cross-site": ("Sec-Fetch-Site: cross-site",),
    "same-site": ("Sec-Fetch-Site: same-site",),
    "image": ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"),
    "text/plain": ("Origin: https://evil.example", "Content-Type: text/plain"),
    "form": ("Origin: null", "Content-Type: application/x-www-form-urlencoded"),
    "multipart": ("Origin: https://evil.example", "Content-Type: multipart/form-data; boundary=x"),
    "preflight": ("Origin: https://evil.example", "Access-Control-Request-Method: POST"),
    "other port": ("Origin: http://192.168.1.2:3000",),
    "rebound": ("Origin: http://evil.example:8123", "Sec-Fetch-Site: same-origin"),
}


@pytest.mark.parametrize("peer", [LAN, HERE])
@pytest.mark.parametrize("how", HOSTILE)
def test_a_page_of_another_site_is_refused_with_and_without_a_key(how: str, peer: Peer) -> None:
    """Also with the best of keys: a page that has one still is no page of ours."""
    host = "127.0.0.1:8123" if peer is HERE else "192.168.1.2:8123"
    for method, path in [*ROUTES, *(("OPTIONS", path) for _, path in ROUTES)]:
        for key in ((), (bearer(DESK),)):
            found = decide(method, path, *HOSTILE[how], *key, peer=peer, host=host)
            assert code(found) is Code.FORBIDDEN


@pytest.mark.parametrize("host", ["evil.example", "192.168.1.2.nip.io", "127.0.0.1", "localhost."])
def test_under_another_name_only_with_a_key(host: str) -> None:
    for method, path in listed():
        assert code(decide(method, path, host=host)) is Code.MISDIRECTED
        assert code(decide(method, path, *WITHOUT["wrong"], host=host)) is Code.MISDIRECTED
        found = decide(method, path, bearer(USE), host=host)
        assert code(found) == USE_KEY.principal
    page = ("Origin: http://evil.example", "Sec-Fetch-Site: same-origin")
    assert code(decide("POST", "/v1/messages", *page, host="evil.example")) is Code.MISDIRECTED


# ---------------------------------------------------------------- with one


@pytest.mark.parametrize("field", [bearer(USE), f"x-api-key: {USE}", f"api-key:{USE}"])
@pytest.mark.parametrize("peer", [LAN, HERE])
def test_a_key_is_taken_wherever_clients_send_it(field: str, peer: Peer) -> None:
    for method, path in listed():
        assert code(decide(method, path, field, peer=peer)) == USE_KEY.principal


def test_the_good_one_of_two_counts() -> None:
    found = decide("POST", "/v1/messages", bearer("dummy"), f"x-api-key: {USE}")
    assert code(found) == USE_KEY.principal


@pytest.mark.parametrize("key", ["local", "ollama", "sk-1234", "mp-" + "x" * 43, OLD, ""])
def test_on_this_machine_any_word_will_do(key: str) -> None:
    """Clients have to send something, and their users write something."""
    for method, path in listed():
        here = {"peer": HERE, "host": "127.0.0.1:8123"}
        assert decide(method, path, bearer(key), **here) is LOCAL  # type: ignore[arg-type]


@pytest.mark.parametrize("peer", [LAN, HERE])
def test_the_control_plane_takes_a_key_of_its_scope(peer: Peer) -> None:
    for method, path in CONTROL:
        assert code(decide(method, path, bearer(DESK), peer=peer)) == DESK_KEY.principal
        assert code(decide(method, path, bearer(USE), peer=peer)) is Code.FORBIDDEN
        host = "127.0.0.1" if peer is HERE else "192.168.1.2"
        for fields in WITHOUT.values():
            assert code(decide(method, path, *fields, peer=peer, host=host)) is Code.UNAUTHORIZED


def test_a_backends_own_paths_need_control_from_elsewhere() -> None:
    path = "/upstream/m/anything"
    assert code(decide("POST", path, bearer(USE))) is Code.FORBIDDEN
    assert code(decide("POST", path, bearer(DESK))) == DESK_KEY.principal
    assert code(decide("POST", path, bearer(USE), peer=HERE)) == USE_KEY.principal
    assert code(decide("POST", path, by=guard(keyless=True))) is Code.FORBIDDEN


def test_where_the_user_said_so_everyone_may_use_models_and_no_more() -> None:
    by = guard(keyless=True)
    for method, path in listed():
        assert decide(method, path, by=by) is ANYONE
        assert decide(method, path, by=by, host="host.docker.internal:8123") is ANYONE
        assert code(decide(method, path, by=by, host="evil.example")) is Code.MISDIRECTED
        assert code(decide(method, path, bearer(USE), by=by)) == USE_KEY.principal
    for method, path in CONTROL:
        assert code(decide(method, path, by=by)) is Code.UNAUTHORIZED


def test_from_a_container_with_a_key() -> None:
    for name in ("host.docker.internal:8123", "host.containers.internal"):
        found = decide("POST", "/v1/messages", bearer(USE), host=name)
        assert code(found) == USE_KEY.principal
        assert code(decide("POST", "/v1/messages", host=name)) is Code.UNAUTHORIZED


def test_a_preflight_has_no_key_and_no_effect() -> None:
    asks = ("Origin: https://app.example", "Access-Control-Request-Method: POST")
    assert decide("OPTIONS", "/v1/messages", *asks) is ANYONE
    assert code(decide("OPTIONS", "/control/v1/status", *asks)) is Code.UNAUTHORIZED
    assert code(decide("POST", "/v1/messages", *asks)) is Code.UNAUTHORIZED
    assert code(decide("OPTIONS", "/v1/messages", asks[0])) is Code.UNAUTHORIZED


# ---------------------------------------------------------------- too many tries


def test_ten_failures_then_slow_refusals_and_a_right_key_still_passes() -> None:
    by = guard(failures=Failures())
    for _ in range(ALLOWED):
        assert code(decide("POST", "/v1/messages", by=by)) is Code.UNAUTHORIZED
    found = decide("POST", "/v1/messages", *WITHOUT["wrong"], by=by)
    assert isinstance(found, Problem)
    assert (found.code, found.retry_after) == (Code.RATE_LIMITED, 60.0)
    assert code(decide("GET", "/control/v1/status", by=by)) is Code.RATE_LIMITED
    assert code(decide("POST", "/v1/messages", bearer(USE), by=by)) == USE_KEY.principal
    neighbour = Peer.of(("192.168.1.8", 50000), ("192.168.1.2", 8123))
    assert code(decide("POST", "/v1/messages", peer=neighbour, by=by)) is Code.UNAUTHORIZED


def test_on_this_machine_nobody_is_slowed_down() -> None:
    by = guard(failures=Failures())
    here = {"peer": HERE, "host": "127.0.0.1", "by": by}
    for _ in range(5 * ALLOWED):
        found = decide("GET", "/control/v1/status", **here)  # type: ignore[arg-type]
        assert code(found) is Code.UNAUTHORIZED


def refused(path: str, by: Guard) -> Answered:
    raw = f"POST {path} HTTP/1.1\r\nHost: 192.168.1.2\r\n\r\n".encode()
    found = admit(parse_head(raw, Limits()), LAN, by, Limits())
    assert isinstance(found, Answered)
    return found


def test_such_a_refusal_comes_late() -> None:
    by = guard(failures=Failures(allowed=1))
    assert not refused("/v1/messages", by).late
    assert refused("/v1/messages", by).late


# ---------------------------------------------------------------- one connection


def test_a_known_head_is_decided_anew_when_its_key_is_over() -> None:
    now = [NOW]
    by = Guard(keys=RING, clock=lambda: now[0])
    raw = f"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{bearer(SHORT)}\r\n\r\n"
    head = parse_head(raw.encode(), Limits())
    admitted = admit(head, LAN, by, Limits())
    assert isinstance(admitted, Admitted)
    assert admitted.client == "key short"
    known = learn(raw.encode(), by, head, admitted)
    assert known is not None
    assert again(known, raw.encode(), by, Limits())
    now[0] = NOW + 60
    assert not again(known, raw.encode(), by, Limits())
    assert isinstance(admit(head, LAN, by, Limits()), Answered)


def test_no_conversation_passes_for_a_key() -> None:
    raw = get("/v1/messages", "X-Session-Id: key laptop", "User-Agent: x", method="POST")
    admitted = admit(parse_head(raw, Limits()), HERE, guard(), Limits())
    assert isinstance(admitted, Admitted)
    assert admitted.client == "127.0.0.1 x"


def keyed(key: str, path: str = "/v1/chat/completions") -> bytes:
    return post(path, b'{"model":"m"}', bearer(key))


@both_loops
async def test_keys_that_come_and_go_count_on_open_connections() -> None:
    async with world(guard=guard()) as here:
        client = await here.client()
        for _ in range(3):
            await client.send(keyed(USE))
            assert (await client.reply()).status == 200
        assert {wish.principal for wish in here.leases.wishes} == {USE_KEY.principal}
        assert {wish.client for wish in here.leases.wishes} == {"key laptop"}
        here.front.set_guard(Guard())
        await client.send(keyed(USE))  # on this machine any word will do, but it is no key now
        assert (await client.reply()).status == 200
        assert here.leases.wishes[-1].principal == LOCAL
        here.front.set_guard(guard())
        await client.send(keyed(USE))
        assert (await client.reply()).status == 200
        assert here.leases.wishes[-1].principal == USE_KEY.principal
    assert [record.key for record in here.records] == ["laptop"] * 3 + [""] + ["laptop"]
    assert USE not in repr(here.records)
    assert all(USE.encode() not in seen.head for seen in here.backend.seen)


@both_loops
async def test_limits_are_told_in_the_clients_words() -> None:
    async with world(guard=guard()) as here:
        here.leases.hold = True
        first, second = await here.client(), await here.client()
        await first.send(keyed(BUSY))
        while not here.leases.waiting:
            await second.send(get("/health"))
            await second.reply()
        await second.send(keyed(BUSY, "/v1/messages"))
        reply = await second.reply()
        assert (reply.status, reply.get("retry-after")) == (429, "1")
        assert b'"type": "rate_limit_error"' in reply.body
        here.leases.hold = False
        here.leases.answer(*here.leases.waiting[0][:2])
        assert (await first.reply()).status == 200
        for expected in (200, 200, 429):
            await first.send(keyed(OFTEN))
            assert (await first.reply()).status == expected
        await first.send(keyed(BUSY))
        assert (await first.reply()).status == 200


@both_loops
async def test_counts_that_no_engine_makes_weigh_on_the_minute_too() -> None:
    asked = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    async with world(guard=guard()) as here:
        here.leases.spoken = Manner(frozenset({"chat"}))
        here.leases.tokens = Tokens(42, exact=True)
        client = await here.client()
        for key, expected in ((OFTEN, 200), (OFTEN, 200), (OFTEN, 429), (BUSY, 200), (BUSY, 200)):
            await client.send(post("/v1/messages/count_tokens", asked, bearer(key)))
            assert (await client.reply()).status == expected
        assert (len(here.leases.counted), here.leases.wishes) == (4, [])


@both_loops
async def test_a_client_that_leaves_gives_its_place_back() -> None:
    async with world(guard=guard()) as here:
        here.leases.hold = True
        first, second = await here.client(), await here.client()
        await first.send(keyed(BUSY))
        while not here.leases.waiting:
            await second.send(get("/health"))
            await second.reply()
        first.close()
        while not here.leases.waiting[0][2].cancelled:
            await second.send(get("/health"))
            await second.reply()
        here.leases.hold = False
        await second.send(keyed(BUSY))
        assert (await second.reply()).status == 200


# ---------------------------------------------------------------- the control plane


async def told(conn: Conn, backend: Scripted) -> None:
    while True:
        seen = await conn.request()
        backend.seen.append(seen)
        await conn.send(ok(b"{}"))


def control(here: World) -> None:
    def hold(who: Principal) -> Hold:
        headers = {
            "X-Modelport-Secret": "s3cret",
            "X-Modelport-Principal": who.name,
            "X-Modelport-Scopes": " ".join(sorted(who.scopes)),
        }
        return Hold(here.leases.target, "", headers, keep_query=True)

    here.front.set_control(hold)


@both_loops
async def test_the_control_plane_is_one_more_upstream(short_dir: Path) -> None:
    async with world(told, guard=guard(), uds=str(short_dir / "s")) as here:
        control(here)
        lies = (
            "X-Modelport-Principal: owner",
            "x-modelport-secret: guessed",
            "X-MODELPORT-SCOPES: control",
            "X-Modelport-Other: x",
            "Connection: x-modelport-secret",
        )
        path = "/control/v1/models/a%2Fb/unload?force=1"
        reply = await here.once(post(path, b'{"force":true}', bearer(DESK), *lies))
        assert (reply.status, reply.body) == (200, b"{}")
        seen = here.backend.seen[0]
        assert seen.line == f"POST {path} HTTP/1.1"
        assert seen.body == b'{"force":true}'
        own = [(name, value) for name, value in seen.fields if name.startswith("x-modelport")]
        assert own == [
            ("x-modelport-secret", "s3cret"),
            ("x-modelport-principal", "desk"),
            ("x-modelport-scopes", "control use"),
        ]
        assert DESK.encode() not in seen.head
        assert here.leases.wishes == []
        for key, status in ((USE, 403), ("mp-" + "x" * 43, 401)):
            assert (await here.once(post(path, b"{}", bearer(key)))).status == status
        assert len(here.backend.seen) == 1


@both_loops
async def test_an_order_is_never_sent_twice() -> None:
    async def dies(conn: Conn, backend: Scripted) -> None:
        backend.seen.append(await conn.request())
        conn.reset()

    async with world(dies, guard=guard()) as here:
        control(here)
        reply = await here.once(post("/control/v1/reload", b"{}", bearer(DESK)))
        assert reply.status == 502
        assert b"The control plane failed" in reply.body
        assert len(here.backend.seen) == 1


@both_loops
async def test_before_there_is_a_control_plane_it_is_said() -> None:
    async with world(guard=guard()) as here:
        reply = await here.once(get("/control/v1/status", bearer(DESK)))
        assert (reply.status, reply.get("retry-after")) == (503, "1")
        assert b'"code": "shutting_down"' in reply.body


@both_loops
async def test_who_waits_for_a_late_refusal_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "of", lambda *_, **__: LAN)
    by = guard(failures=Failures(allowed=1))
    async with world(guard=by, limits=Limits(tick=0.01, late=0.05)) as here:
        host = (b"Host: 127.0.0.1", b"Host: 192.168.1.2")
        ask = get("/v1/messages").replace(*host)
        assert (await here.once(ask)).status == 401
        late = await here.once(ask)
        assert (late.status, late.get("retry-after")) == (429, "30")
        assert b'"type": "rate_limit_error"' in late.body
        gone = await here.client()
        await gone.send(ask)
        gone.close()
        good = await here.client()
        await good.send(keyed(USE).replace(*host))
        assert (await good.reply()).status == 200


def test_a_new_guard_goes_on_counting() -> None:
    failures = Failures(allowed=1)
    assert not refused("/v1/messages", guard(failures=failures)).late
    assert refused("/v1/messages", guard(failures=failures)).late


# ---------------------------------------------------------------- other ways in

DISGUISED = (
    "/%63ontrol/v1/status",
    "/control%2fv1%2fstatus",
    "//control/v1/status",
    "/./control/v1/status",
    "/v1/../control/v1/status",
    "/v1/models/../../control/v1/status",
    "/v1/models/%2e%2e/%2e%2e/control/v1/status",
    "/Control/v1/status",
    "/CONTROL/v1/status",
    "/control./v1/status",
    "/control;x/v1/status",
    "/control%00/v1/status",
    "/\\control/v1/status",
    "/%2fcontrol/v1/status",
    "/metrics%00",
    "/ui%2f",
)


@both_loops
async def test_no_other_spelling_of_a_path_leads_to_the_control_plane(short_dir: Path) -> None:
    """What is not the control plane's for the guard is not for what comes after it."""
    async with world(told, guard=guard(), uds=str(short_dir / "s")) as here:
        control(here)
        for path in DISGUISED:
            for key in (USE, DESK):
                for raw in (get(path, bearer(key)), post(path, b"{}", bearer(key))):
                    assert (await here.once(raw)).status in {404, 405}, path
        assert here.backend.seen == []


@both_loops
async def test_a_backend_is_asked_by_plain_methods_only() -> None:
    async with world(guard=guard()) as here:
        for method in ("TRACE", "CONNECT", "PROPFIND", "PURGE"):
            reply = await here.once(get("/upstream/m/x", bearer(DESK), method=method))
            assert (reply.status, "TRACE" in (reply.get("allow") or "TRACE")) == (405, False)
        assert here.backend.seen == []


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key", "origin", "host"])
def test_no_two_of_what_decides(name: str) -> None:
    for values in (("a", "b"), (f"Bearer {DESK}", "x"), ("x", f"Bearer {DESK}")):
        with pytest.raises(ProblemError):
            decide("GET", "/control/v1/status", *(f"{name}: {value}" for value in values))
    with pytest.raises(ProblemError):
        decide("GET", "/", "Sec-Fetch-Site: cross-site", "sec-fetch-site: none")


def test_guesses_under_a_wrong_name_are_counted_too() -> None:
    """There a right key would pass, so the answer tells whether one is."""
    by = guard(failures=Failures())
    for _ in range(ALLOWED):
        found = decide("GET", "/v1/models", *WITHOUT["wrong"], host="evil.example", by=by)
        assert code(found) is Code.MISDIRECTED
    found = decide("GET", "/v1/models", *WITHOUT["wrong"], host="evil.example", by=by)
    assert code(found) is Code.RATE_LIMITED
    assert code(decide("GET", "/v1/models", host="evil.example", by=by)) is Code.MISDIRECTED
    assert code(decide("GET", "/v1/models", bearer(USE), host="x", by=by)) == USE_KEY.principal


def test_a_page_loads_no_model_with_an_image() -> None:
    """Under a name that is not loopback's, browsers do not say that a GET is of another site."""
    for method in ("GET", "HEAD"):
        for host in ("host.docker.internal:8123", "studio.local"):
            by = Guard(hosts=["studio.local"], keys=RING, clock=lambda: NOW)
            here = {"peer": HERE, "host": host, "by": by}
            asked = decide(method, "/upstream/m/x", **here)  # type: ignore[arg-type]
            assert code(asked) is Code.FORBIDDEN
            keyed = decide(method, "/upstream/m/x", bearer(USE), **here)  # type: ignore[arg-type]
            assert keyed == USE_KEY.principal
            assert decide(method, "/v1/models", **here) is LOCAL  # type: ignore[arg-type]
            assert decide("POST", "/upstream/m/x", **here) is LOCAL  # type: ignore[arg-type]
        for host in ("localhost:8123", "127.0.0.1", "[::1]:8123"):
            peer = Peer.of(("::1", 5, 0, 0), ("::1", 8123, 0, 0)) if "[" in host else HERE
            assert decide(method, "/upstream/m/x", peer=peer, host=host) is LOCAL
