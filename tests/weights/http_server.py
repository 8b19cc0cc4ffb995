"""A server on the loopback that does to a download whatever its script says."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import random
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from movinet.registry import Source
from movinet.weights.download import Fetched, fetch

_RANDOM = random.Random(1)
BODY = gzip.compress(_RANDOM.randbytes(300_000), mtime=0)
OTHER = gzip.compress(_RANDOM.randbytes(300_000), mtime=0)
HALF = len(BODY) // 2
TAG, OTHER_TAG = '"one"', '"two"'
PAGE = b"\n<!DOCTYPE html><html>please log in</html>"


class Request(http.server.BaseHTTPRequestHandler):
    """Answers with the next step of its path's script, and the last step from then on."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        steps = self.server.scripts[self.path]
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            step(self)

    def head(self, code: int = 200, /, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.scripts: dict[str, list[Callable[[Request], object]]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.pauses: list[float] = []

    def source(self, *steps: Callable[[Request], object], path: str = "/file", kind: Any = "tensorflow") -> Source:
        self.scripts[path] = list(steps)
        return Source(kind, f"http://127.0.0.1:{self.server_address[1]}{path}", "model.tar.gz")

    def fetch(self, *sources: Source, **options: Any) -> Fetched:
        options = {"timeout": 5.0, "progress": False, "pauses": (1, 2, 4), "sleep": self.pauses.append, **options}
        return fetch(sources, **options)

    def handle_error(self, *_: Any) -> None:
        pass


# --- what a server can do ---


def good(request: Request, body: bytes = BODY, tag: str = TAG) -> None:
    """A decent server: ranges, If-Range, 416."""
    start = 0
    if "Range" in request.headers and request.headers.get("If-Range") in (None, tag):
        start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            request.head(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
            return
    span = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    request.head(206 if start else 200, Content_Length=len(body) - start, ETag=tag, **span)
    request.wfile.write(body[start:])


def changed(request: Request) -> None:
    good(request, OTHER, OTHER_TAG)


def status(code: int, **headers: object) -> Callable[[Request], object]:
    return lambda request: request.head(code, Content_Length=0, **headers)


def sends(body: bytes, code: int = 200, **headers: object) -> Callable[[Request], object]:
    def step(request: Request) -> None:
        request.head(code, **{"Content_Length": len(body), **headers})
        request.wfile.write(body)

    return step


def cut_off(request: Request) -> None:
    request.head(200, Content_Length=len(BODY), ETag=TAG)
    request.wfile.write(BODY[:HALF])


def reset(request: Request) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def reset_midway(request: Request) -> None:
    cut_off(request)
    request.wfile.flush()
    time.sleep(0.1)  # let the bytes arrive before the reset discards them
    reset(request)


def stall(request: Request) -> None:
    cut_off(request)
    request.server.released.wait(10)  # type: ignore[attr-defined]


def drip(request: Request) -> None:
    request.head(200, Content_Length=len(BODY), ETag=TAG)
    for byte in BODY[:200]:
        request.wfile.write(bytes([byte]))
        time.sleep(0.02)


def drip_head(request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(200):
        request.wfile.write(b"a")
        time.sleep(0.02)


def silent(request: Request) -> None:
    request.server.released.wait(10)  # type: ignore[attr-defined]


def slowly(request: Request) -> None:
    request.head(200, Content_Length=len(BODY), ETag=TAG)
    for start in range(0, len(BODY), 30_000):
        request.wfile.write(BODY[start : start + 30_000])
        time.sleep(0.05)
