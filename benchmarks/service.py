"""The service under load: how long a search by picture takes, and what a kill -9 loses.

    python benchmarks/service.py                      # 100,000 sightings, OSNet x0.25, 512-d
    python benchmarks/service.py --sightings 20000 --searchers 1 4 16

The gallery holds clustered random vectors (20 sightings a person); the encoder is an OSNet x0.25
with random weights, exported, which takes as long as a trained one.  Times are of whole HTTP round
trips from another process on the same machine: upload of a 128x64 JPEG, decoding, encoding,
search of the 20 best, audit line on the disk, JSON.  Then sightings are added by several clients
while the service is killed (-9) and started again: every addition that was answered must be there.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crosscam.cli import told
from crosscam.encoder import Encoder
from crosscam.gallery import Gallery, Sighting
from crosscam.serve.tokens import Role, Tokens

DIM = 512
START = 1_780_000_000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sightings", type=int, default=100_000)
    parser.add_argument("--searchers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--searches", type=int, default=100, help="per level of load")
    parser.add_argument("--format", default="openvino", help="of the encoder")
    parser.add_argument("--index", action="store_true", help="index the gallery first (minutes)")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep gallery and encoder here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        encoder = _encoder(folder, options.format)
        gallery = _gallery(folder, encoder, options.sightings, options.index)
        secret = Tokens(folder / "state" / "tokens.json").add(f"b{time.time_ns()}", Role.OPERATOR)
        service = Running(gallery, encoder, folder / "state")
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
        print(f"{'searchers':>9} {'p50 ms':>8} {'p99 ms':>8} {'searches/s':>11}")
        for searchers in options.searchers:
            _load(service.port, secret, searchers, options.searches)
        _kill(service, secret, options.kills)
        service.stop()


class Running:
    """A service in a process of its own."""

    def __init__(self, gallery: Path, encoder: Path, state: Path) -> None:
        self.arguments = [str(gallery), str(encoder), str(state)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        gallery, encoder, state = self.arguments
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crosscam", "serve", "--gallery", gallery, "--model", encoder,
             "--state", state, "--port", str(self.port), "--retention-days", "0",
             "--compact-hours", "0", "--per-minute", "1e9", "--burst", "1000000000"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                connection.getresponse().read()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the service did not start.")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def _encoder(folder: Path, kind: str) -> Path:
    """An OSNet x0.25 with random weights, exported; made once."""
    import torch

    from crosscam.convert import convert
    from crosscam.export import export
    from crosscam.nn import backbones

    out = folder / "encoder"
    if not out.exists():
        torch.manual_seed(0)
        torch.save(
            backbones.build("osnet_x0_25", embedding=True).state_dict(), folder / "osnet.pth"
        )
        convert(folder / "osnet.pth", folder / "run")
        export(folder / "run", out, format=kind)  # type: ignore[arg-type]
    return out


def _gallery(folder: Path, encoder: Path, count: int, index: bool) -> Path:
    place = folder / f"gallery-{count}"
    if place.exists():
        return place
    random = np.random.default_rng(0)
    with Gallery.create(place, Encoder.load(encoder)) as gallery:
        start = time.monotonic()
        for first in range(0, count, 10_000):
            some = min(10_000, count - first)
            centers = random.normal(size=(-(-some // 20), DIM)).repeat(20, 0)[:some]
            x = centers + 0.5 * random.normal(size=(some, DIM))
            x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
            sightings = [
                Sighting("", camera=str(i % 12), time=START + first + i) for i in range(some)
            ]
            gallery.add_vectors(x, sightings)
        print(f"added {count:,} vectors in {time.monotonic() - start:.1f} s")
        if index:
            gallery.compact()
    return place


def _picture(number: int) -> bytes:
    random = np.random.default_rng(number)
    small = random.integers(0, 256, (16, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((64, 128), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def _send(
    connection: http.client.HTTPConnection,
    secret: str,
    path: str,
    picture: bytes,
    fields: Sequence[tuple[str, str]],
) -> tuple[int, bytes]:
    body = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields
    )
    body += b'--b\r\nContent-Disposition: form-data; name="pictures"; filename="q.jpg"\r\n'
    body += b"Content-Type: image/jpeg\r\n\r\n" + picture + b"\r\n--b--\r\n"
    headers = {
        "Authorization": f"Bearer {secret}",
        "Content-Type": "multipart/form-data; boundary=b",
    }
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _load(port: int, secret: str, searchers: int, searches: int) -> None:
    seconds: list[float] = []
    lock = threading.Lock()
    share = max(searches // searchers, 1)

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for i in range(share + 2):
            picture = _picture(1000 * number + i)
            start = time.perf_counter()
            status, text = _send(connection, secret, "/api/search", picture, [("top", "20")])
            took = time.perf_counter() - start
            if status != 200:
                raise SystemExit(f"a search failed: {status} {text[:200]!r}")
            if i >= 2:  # the first two warm up
                with lock:
                    seconds.append(took)

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(searchers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.perf_counter() - start
    quantiles = statistics.quantiles(seconds, n=100)
    done = searchers * (share + 2)
    print(
        f"{searchers:>9} {1e3 * quantiles[49]:>8.1f} {1e3 * quantiles[98]:>8.1f} "
        f"{done / total:>11.1f}"
    )


def _kill(service: Running, secret: str, kills: int) -> None:
    """Adds from four clients; kills and starts the service meanwhile; counts what is lost."""
    answered: list[str] = []
    lock = threading.Lock()
    stop = threading.Event()

    def add(number: int) -> None:
        i = 0
        while not stop.is_set():
            i += 1
            try:
                connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
                status, text = _send(
                    connection, secret, "/api/sightings", _picture(10**6 * (number + 1) + i),
                    [("camera", "99"), ("time", str(START + 10**5 * number + i))],
                )  # fmt: skip
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            if status == 201:
                with lock:
                    answered.extend(json.loads(text)["ids"])

    threads = [threading.Thread(target=add, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    starts = []
    for _ in range(kills):
        time.sleep(3.0)
        service.kill()
        begin = time.monotonic()
        service.start()
        starts.append(time.monotonic() - begin)
    time.sleep(2.0)
    stop.set()
    for thread in threads:
        thread.join()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    lost = 0
    for sighting in answered:
        connection.request(
            "GET",
            f"/api/sightings/{sighting}/picture",
            headers={"Authorization": f"Bearer {secret}"},
        )
        answer = connection.getresponse()
        answer.read()
        lost += answer.status != 200
    print(
        f"killed {kills} times while adding: {len(answered):,} additions were answered, "
        f"{lost} are lost; started again in {max(starts):.1f} s at most"
    )
    if lost:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(told(main))
