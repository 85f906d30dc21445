"""What the relay adds, beside nginx and a plain aiohttp proxy.

    python -P -m tests.bench.bench_relay [--runs 3] [--only latency,rate,chunks,memory,agent]
        [--ways socket,relay,nginx,pump,aiohttp]

One run: the proxy under test alone on one processor, clients and backends on the other. modelport
is measured whole: guard, metrics, scheduler, lease. Latencies are medians of rows taken one after
the other; of the rest the best of ``--runs`` counts for each way, since other programs only ever
make it worse, and the spread is shown. Exit status 1 if a target is missed.

``by socket`` is modelport with a backend that it reaches by a unix socket instead of a port.
``pump`` is the floor: bytes passed on unread by the same event loop in the same language. Where it
misses a target, nothing that is written so can meet it.

The last part asks a real engine: ten turns of an agent, straight and through modelport.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.bench.hops.load import chunk_cost, latencies, rate, stream_memory
from tests.bench.hops.proxies import OTHER_CPU, Way, ways
from tests.bench.hops.turns import agent_turns

PARTS = ("latency", "rate", "chunks", "memory", "agent")
missed: list[str] = []


def target(what: str, value: float, limit: float, *, least: bool = False) -> None:
    """Print a target, and remember if it is missed."""
    good = value >= limit if least else value <= limit
    sign = ">=" if least else "<="
    print(f"    {'ok    ' if good else 'MISSED'} {what}: {value:.3g}, target {sign} {limit:.3g}")
    if not good:
        missed.append(what)


def nginx_of(values: dict[str, float]) -> float | None:
    return values.get("nginx")


def measure_latency(found: list[Way], runs: int) -> None:
    for size, count in ((1024, 3000), (200 * 1024, 400)):
        print(f"added latency, one client, body of {size // 1024} KiB (µs, medians of {count})")
        best: dict[str, float] = {}
        for _ in range(runs):
            direct, *others = latencies(found, size, count)
            added = {way.name: us - direct for way, us in zip(found[1:], others, strict=True)}
            print(f"    direct {direct:.0f};", ", ".join(f"{k} +{v:.0f}" for k, v in added.items()))
            for name, us in added.items():
                best[name] = min(us, best.get(name, us))
        if "nginx" in best:
            ratio = best["modelport"] / best["nginx"]
            if size < 100_000:
                target("1 KiB, times nginx", ratio, 1.3)
            else:
                print(f"    200 KiB, times nginx: {ratio:.2f}")
        if size > 100_000:
            target("200 KiB, ms added", best["modelport"] / 1000, 0.6)


def measure_rate(found: list[Way], runs: int, folder: Path) -> None:
    print("requests a second, 64 clients (in brackets: µs of the proxy's processor time for each)")
    best: dict[str, float] = {}
    for _ in range(runs):
        line = []
        for way in found:
            per_second, us = rate(way, folder, 3)
            line.append(f"{way.name} {per_second:.0f} [{us:.0f}]")
            best[way.name] = max(per_second, best.get(way.name, 0.0))
        print("   ", ", ".join(line))
    if "nginx" in best:
        target("requests/s, times nginx", best["modelport"] / best["nginx"], 0.7, least=True)


def measure_streams(found: list[Way], runs: int) -> None:
    print("processor time a streamed chunk (µs), 100 streams of 50 a second")
    best: dict[str, float] = {}
    for _ in range(runs):
        line = []
        for way in found[1:]:
            if not way.stream:
                continue
            us = asyncio.run(chunk_cost(way, 4))
            line.append(f"{way.name} {us:.1f}")
            best[way.name] = min(us, best.get(way.name, us))
        print("   ", ", ".join(line))
    if "nginx" in best:
        target("a chunk, times nginx", best["modelport"] / best["nginx"], 1.3)


def measure_memory(found: list[Way]) -> None:
    print("memory of an open stream, with 1,000 of them (KiB)")
    used = {way.name: asyncio.run(stream_memory(way)) for way in found[1:] if way.stream}
    print("   ", ", ".join(f"{name} {kib:.1f}" for name, kib in used.items()))
    target("KiB a stream", used["modelport"], 40)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--only", default=",".join(PARTS))
    options.add_argument("--ways", default="socket,relay,nginx,pump,aiohttp")
    given = options.parse_args()
    parts = given.only.split(",")
    if not sys.platform.startswith("linux") or (os.cpu_count() or 1) < 2:
        print("this bench needs Linux and two processors")
        return 0
    os.sched_setaffinity(0, {OTHER_CPU})
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    try:
        with ways(folder, given.ways.split(",")) as found:
            if "latency" in parts:
                measure_latency(found, given.runs)
            if "rate" in parts:
                measure_rate(found, given.runs, folder)
            if "chunks" in parts:
                measure_streams(found, given.runs)
            if "memory" in parts:
                measure_memory(found)
        if "agent" in parts:
            agent_turns(given.runs, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if missed:
        print("missed:", "; ".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
