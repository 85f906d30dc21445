"""What the daemon itself costs: start, idle memory and wake-ups, and what a swap adds.

    python -m tests.bench.bench_daemon

Real processes: the daemon, its keepers, the embedded engine on tiny weights. The price of a swap is
the daemon's own share: from the order to start to the engine's process running (keeper), and from
the engine's own readiness to the grant (detection), beside the same engine started bare.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.e2e.house import House
from tests.models import make_gguf
from tests.ports import free_port

MIB = 1 << 20
RUNS = 9
IDLE_SECONDS = 20.0


def wakeups(pid: int, seconds: float) -> float:
    """Voluntary context switches a second, over all threads: how often it woke from sleep."""

    def switches() -> int:
        total = 0
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    before = switches()
    time.sleep(seconds)
    return (switches() - before) / seconds


def bare_start(weights: Path) -> float:
    """Seconds from starting the engine by hand to its first answered completion."""
    import http.client

    port = free_port()
    runner = Path(__file__).parents[2] / "daemon" / "engines" / "xllamacpp_runner.py"
    command = [sys.executable, "-P", str(runner), "-m", str(weights), "-c", "512", "-t", "1"]
    command += ["-np", "1", "--port", str(port), "--host", "127.0.0.1", "--cache-ram", "0"]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as sink:
        engine = subprocess.Popen(command, stdout=sink, stderr=sink)
        try:
            while True:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                    body = json.dumps({"prompt": "a", "max_tokens": 1})
                    headers = {"Content-Type": "application/json"}
                    connection.request("POST", "/v1/completions", body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 200:
                        return time.perf_counter() - began
                except OSError:
                    pass
                finally:
                    connection.close()
                time.sleep(0.002)
        finally:
            engine.kill()
            engine.wait(10)


def swap_seconds(house: House, model: str) -> float:
    began = time.perf_counter()
    assert house.chat(model, max_tokens=1).status == 200
    return time.perf_counter() - began


def run() -> int:
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    weights = folder / "tiny.gguf"
    make_gguf(weights)
    tables = "".join(
        f'[models.{name}]\npath = "{weights}"\nctx = 512\nengine = "xllamacpp"\n'
        'args = ["-t", "1"]\n'
        for name in ("a", "b")
    )
    config = f'[memory]\nbudget = "70 MiB"\n\n{tables}[timing]\nlinger_min = 0\nlinger_max = 0\n'
    house = House(folder, config)
    failed = False
    try:
        starts = []
        for _ in range(3):
            house.started_in = 0.0
            house.start()
            starts.append(house.started_in)
            house.stop()
        house.start()
        assert house.process is not None
        process = psutil.Process(house.process.pid)
        time.sleep(3)  # the first seconds belong to the start
        rss = process.memory_info().rss / MIB
        rate = wakeups(process.pid, IDLE_SECONDS)
        swap_seconds(house, "a")
        swap_seconds(house, "b")
        both = [(swap_seconds(house, "ab"[i % 2]), bare_start(weights)) for i in range(RUNS)]
        swaps, bare = [s for s, _ in both], [b for _, b in both]
        stop = statistics.median(stop_times(house))
        added = statistics.median(s - b for s, b in both) - stop
        for name, value, limit, unit in (
            ("start to accepting", statistics.median(starts), 0.5, "s"),
            ("idle RSS", rss, 64.0, "MiB"),
            ("idle wake-ups", rate, 2.0, "/s"),
            ("a swap adds (beyond the engines' own stop and start)", added * 1000, 50.0, "ms"),
        ):
            mark = "ok" if value <= limit else "OVER"
            failed |= value > limit
            print(f"{name:<55} {value:8.2f} {unit:<4} target <= {limit:g}  {mark}")
        median = statistics.median
        print(
            f"  of it: swap {median(swaps) * 1000:.0f} ms; engine alone: start"
            f" {median(bare) * 1000:.0f} ms, stop {stop * 1000:.0f} ms (medians of {RUNS})"
        )
    finally:
        house.__exit__()
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def stop_times(house: House) -> list[float]:
    """Seconds from each order to stop to the exit, by the daemon's own events."""
    began: dict[str, float] = {}
    times = []
    for event in house.events():
        model = event.data["model"]
        if event.kind == "stop":
            began[model] = event.data["at"]
        elif event.kind == "exited" and model in began:
            times.append(event.data["at"] - began.pop(model))
    return times


if __name__ == "__main__":
    sys.exit(run())
