"""Many clients at once, of whom some hang up, and SIGTERM at the end: is anyone left without an answer?

Every client asks for one thing after the other (texts, chats, streamed or not, embeddings, tokens), and
hangs up on some of them at a random moment. Counted are whole answers, refusals that say so (429,
503), hang-ups of ours, and what must not be: a connection that ends without a whole answer, a status that
is none of these. In the middle everyone pauses: the engine must then hold no block that is in use. At the end SIGTERM
comes while all are asking; the server has to finish what it began and end with status 0.

    python bench/serve_storm.py MODEL [--clients 300] [--seconds 180]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

Counts = collections.Counter[str]
WORDS = ["the", "fox", "found", "a", "red", "ball", "under", "an", "old", "tree", "and", "home"]
REFUSALS = (429, 503)
PATIENCE = 600.0


def question(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body, of mixed length and settings."""
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 60)))
    settings = {
        "max_tokens": rng.randint(1, 48),
        "temperature": rng.choice([0, 0.7, 1.2]),
        "stream": rng.random() < 0.6,
        "n": rng.choice([1, 1, 1, 2]),
    }
    way = rng.random()
    if way < 0.4:
        return "/v1/completions", {"prompt": text, **settings}
    if way < 0.85:
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **settings}
    if way < 0.93:
        return "/v1/embeddings", {"input": [text, text[:9]]}
    return "/tokenize", {"prompt": text}


async def ask(
    port: int, rng: random.Random, counts: Counts, waits: list[float], ending: asyncio.Event
) -> None:
    """One request, counted by what became of it."""
    path, body = question(rng)
    late = ending.is_set()
    content = json.dumps(body).encode()
    patience = rng.expovariate(2.0) if rng.random() < 0.3 else None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        counts["door closed"] += 1
        return
    except ConnectionResetError:  # the door was closed while this one stood before it
        counts["reset at the door" if ending.is_set() else "LOST: no connection"] += 1
        return
    begun = time.monotonic()
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        try:
            received = await asyncio.wait_for(reader.read(-1), patience)
        except asyncio.TimeoutError:
            counts["we hung up"] += 1
            return
        outcome = judge(received, bool(body.get("stream")))
        counts[outcome] += 1
        if outcome == "answered":
            waits.append(time.monotonic() - begun)
    except ConnectionError:
        # in the moment in which the server closes its door, the system resets who stands in it
        counts["reset at the door" if late else "LOST: connection broke"] += 1
    finally:
        writer.close()


def judge(received: bytes, stream: bool) -> str:
    """Whether an answer is whole, a refusal, or neither."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return "LOST: no answer"
    status = int(head[9:12])
    if status in REFUSALS:
        return f"refused ({status})"
    if status != 200:
        return f"WRONG: status {status}"
    if b"transfer-encoding: chunked" in head.lower():
        if not body.endswith(b"0\r\n\r\n"):
            return "LOST: broken off"
        if b'"error"' in body:
            return "WRONG: an error in the stream"
        return "answered" if b"data: [DONE]" in body else "LOST: no end"
    try:
        json.loads(body)
    except ValueError:
        return "LOST: half an answer"
    return "WRONG: no stream" if stream else "answered"


async def client(
    port: int,
    seed: int,
    counts: Counts,
    waits: list[float],
    until: asyncio.Event,
    ending: asyncio.Event,
) -> None:
    """Ask and ask again; after a refusal, a little later."""
    rng = random.Random(seed)
    while not until.is_set():
        before = counts["refused (429)"]
        await ask(port, rng, counts, waits, ending)
        if ending.is_set():
            await asyncio.sleep(0.05)
        elif counts["refused (429)"] > before:
            await asyncio.sleep(rng.random())
        if counts["door closed"]:
            return


async def get(port: int, path: str) -> str:
    """A page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    received = (await reader.read(-1)).decode()
    writer.close()
    return received.partition("\r\n\r\n")[2]


async def storm(
    port: int,
    clients: int,
    seconds: float,
    counts: Counts,
    waits: list[float],
    ending: asyncio.Event,
) -> None:
    """All clients for a while, until each has its last answer."""
    until = asyncio.Event()
    tasks = [
        asyncio.create_task(client(port, seed, counts, waits, until, ending))
        for seed in range(clients)
    ]
    await asyncio.wait(tasks, timeout=seconds)
    until.set()
    await asyncio.gather(*tasks)


async def gauges(port: int) -> dict[str, float]:
    """The server's own figures."""
    lines = [
        line for line in (await get(port, "/metrics")).splitlines() if line[:1] not in ("", "#")
    ]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def settled(port: int) -> dict[str, float]:
    """The figures once nobody is being answered; hang-ups take a step to be noticed."""
    end = time.monotonic() + PATIENCE
    while True:
        found = await gauges(port)
        if found["glassbox_requests_running"] + found["glassbox_requests_waiting"] == 0:
            return found
        assert time.monotonic() < end, "requests are still running after everyone has gone"
        await asyncio.sleep(0.1)


async def run(process: subprocess.Popen[str], port: int, clients: int, seconds: float) -> bool:
    """The whole of it; whether all went well."""
    counts: Counts = collections.Counter()
    waits: list[float] = []
    memory = psutil.Process(process.pid).memory_info
    ending = asyncio.Event()
    await storm(port, clients, seconds / 2, counts, waits, ending)
    found = await settled(port)
    held = found["glassbox_cache_blocks"] - found["glassbox_cache_blocks_free"]
    first = memory().rss
    print(f"half time: {dict(counts)}")
    print(f"blocks in use while all pause: {held:.0f} of {found['glassbox_cache_blocks']:.0f}")

    going = asyncio.create_task(storm(port, clients, PATIENCE, counts, waits, ending))
    await asyncio.sleep(seconds / 2)
    second = memory().rss
    ending.set()
    process.send_signal(signal.SIGTERM)
    status = await asyncio.to_thread(process.wait, PATIENCE)
    await going
    waits.sort()
    bad = {what: n for what, n in counts.items() if what.split(":")[0] in ("LOST", "WRONG")}
    print(f"in all: {dict(counts)}")
    if waits:
        middle, late = waits[len(waits) // 2], waits[int(0.99 * len(waits))]
        print(f"whole answers: {len(waits)}, p50 {middle:.2f} s, p99 {late:.2f} s")
    print(f"memory: {first >> 20} MiB at half time, {second >> 20} MiB at the end")
    print(f"the server ended with status {status}; lost or wrong: {bad or 'none'}")
    return status == 0 and not bad and held == 0 and counts["answered"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "glassbox",
        "--threads",
        str(asked.threads),
        "serve",
        asked.model,
    ]
    command += ["--port", "0", "--drain-seconds", "300", "--device", "cpu"]
    environment = {k: v for k, v in os.environ.items() if k != "GLASSBOX_API_KEY"}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), log.read_text()
            port = int(line.rpartition(":")[2])
            well = asyncio.run(run(process, port, asked.clients, asked.seconds))
        finally:
            process.kill()
            process.wait()
        lines = [json.loads(one) for one in log.read_text().splitlines() if one[:1] == "{"]
        stopped = [one for one in lines if one["message"] == "stopped"]
        faults = [one for one in lines if one["level"] == "error"]
        print(f"what the engine held at its end: {stopped}")
        print(f"faults in the log: {faults[:3] or 'none'}")
        well = well and not faults and bool(stopped)
        well = well and stopped[0]["blocks_free"] == stopped[0]["blocks_total"]
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
