"""Ten thousand bodies that a server must refuse: a 4xx each, the server alive, its memory flat.

python bench/serve_malformed.py MODEL [--bodies 10000]
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.malformed import malformed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--bodies", type=int, default=10_000)
    asked = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if k != "GLASSBOX_API_KEY"}
    process = subprocess.Popen(
        [sys.executable, "-m", "glassbox", "serve", asked.model, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        memory = psutil.Process(process.pid).memory_info
        rng = random.Random(0)
        statuses: collections.Counter[int] = collections.Counter()
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(asked.bodies):
            if number % max(1, asked.bodies // 10) == 0:
                print(f"{number:6} bodies, {memory().rss / 2**20:7.1f} MiB", flush=True)
            path, content, kind = malformed(rng)
            try:
                connection.request("POST", path, content, {"Content-Type": kind})
                response = connection.getresponse()
                body = response.read()
            except (BrokenPipeError, ConnectionResetError):  # refused before it was all sent
                statuses[413] += 1
                connection.close()
                continue
            statuses[response.status] += 1
            assert 400 <= response.status < 500, (path, content[:200], response.status, body)
            assert set(json.loads(body)) == {"error"}
        print(f"{asked.bodies:6} bodies, {memory().rss / 2**20:7.1f} MiB")
        print(f"statuses: {dict(statuses)}")
        connection.close()
        connection.request("GET", "/health")
        print(f"health: {connection.getresponse().read().decode()}")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
