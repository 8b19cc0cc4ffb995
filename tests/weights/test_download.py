"""Downloads from a server on the loopback that fails in every way a server can."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from movinet.errors import DownloadError
from movinet.registry import Source
from movinet.weights import download
from movinet.weights.download import Fetched, fetch
from tests.weights.http_server import (
    BODY,
    HALF,
    OTHER,
    OTHER_TAG,
    PAGE,
    TAG,
    Request,
    Server,
    changed,
    cut_off,
    drip,
    drip_head,
    good,
    reset,
    reset_midway,
    sends,
    silent,
    slowly,
    stall,
    status,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "MOVINET_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOVINET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def assert_whole(found: Fetched, body: bytes = BODY) -> None:
    assert found.path.read_bytes() == body
    assert found.sha256 == hashlib.sha256(body).hexdigest()
    pin = json.loads(found.path.with_name("model.tar.gz.json").read_text())
    assert pin["sha256"] == found.sha256
    assert pin["size"] == len(body)
    assert pin["url"] == found.source.url
    assert {path.name for path in found.path.parent.iterdir()} == {
        "model.tar.gz",
        "model.tar.gz.json",
        "model.tar.gz.lock",
    }


def assert_nothing_kept(cache: Path) -> None:
    assert not list(cache.rglob("model.tar.gz"))


# --- it works ---


def test_download_then_cache(server: Server, cache: Path) -> None:
    source = server.source(good)
    found = server.fetch(source)
    assert_whole(found)
    assert found.source is source
    assert cache in found.path.parents
    assert server.fetch(source) == found
    assert len(server.seen) == 1
    assert server.pauses == []


def test_the_next_source_is_taken(server: Server) -> None:
    first = server.source(status(403), path="/first")
    second = server.source(good, path="/second")
    found = server.fetch(first, second)
    assert found.source is second
    assert_whole(found)
    assert [path for path, _ in server.seen] == ["/first", "/second"]
    # From now on the cache answers, though the first source was preferred.
    assert server.fetch(first, second) == found
    assert len(server.seen) == 2


def test_same_name_other_address(server: Server) -> None:
    one = server.fetch(server.source(good, path="/one"))
    two = server.fetch(server.source(changed, path="/two"))
    assert one.path != two.path
    assert_whole(one)
    assert_whole(two, OTHER)


def test_kinds(server: Server) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"x")
    tflite = b"\x1c\0\0\0TFL3" + bytes(100)
    for index, (kind, body) in enumerate(
        [
            ("saved_model", BODY),
            ("tflite", tflite),
            ("tflite", BODY),
            ("port", archive.getvalue()),
            ("port", b"\x80\x02x"),
        ]
    ):
        assert_whole(server.fetch(server.source(sends(body), path=f"/{index}", kind=kind)), body)
    for kind, body in [
        ("tensorflow", tflite),
        ("saved_model", archive.getvalue()),
        ("tflite", archive.getvalue()),
        ("port", BODY),
        ("port", archive.getvalue()[:-5]),
    ]:
        with pytest.raises(DownloadError, match="what came"):
            server.fetch(server.source(sends(body), path=f"/wrong/{kind}", kind=kind))


def test_chunked(server: Server) -> None:
    def chunked(request: Request, end: bytes = b"0\r\n\r\n") -> None:
        request.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(BODY), 100_000):
            piece = BODY[start : start + 100_000]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.write(end)

    assert_whole(server.fetch(server.source(chunked)))
    source = server.source(lambda request: chunked(request, b""), chunked, path="/cut")
    assert_whole(server.fetch(source))
    assert server.pauses == [1]


def test_progress(server: Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int | None]] = []
    server.fetch(server.source(cut_off, good, path="/a"), progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1] == (len(BODY), len(BODY))
    server.fetch(server.source(good, path="/b"), progress=True)
    assert capfd.readouterr() == ("", "")  # no terminal, no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.fetch(server.source(good, path="/c"), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "model.tar.gz" in err


# --- failures that pass ---


@pytest.mark.parametrize("trouble", [status(500), status(503), status(408), reset], ids=["500", "503", "408", "reset"])
def test_passing_failures_are_retried(trouble: Callable[[Request], object], server: Server) -> None:
    assert_whole(server.fetch(server.source(trouble, trouble, good)))
    assert server.pauses == [1, 2]


def test_failures_that_last_end(server: Server, cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"/file: HTTP 503 Service Unavailable \(after 4 tries\)"):
        server.fetch(server.source(status(503)))
    assert len(server.seen) == 4
    assert server.pauses == [1, 2, 4]
    with pytest.raises(DownloadError, match=r"connection lost \(Connection|connection lost \(RemoteDisconnected"):
        server.fetch(server.source(reset))
    assert_nothing_kept(cache)


@pytest.mark.parametrize("code", [401, 403, 404, 410, 204, 304])
def test_refusals_are_not_retried(code: int, server: Server, cache: Path) -> None:
    with pytest.raises(DownloadError, match=rf"/file: .*HTTP {code}"):
        server.fetch(server.source(status(code)))
    assert len(server.seen) == 1
    assert server.pauses == []
    assert_nothing_kept(cache)


def test_retry_after(server: Server) -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    source = server.source(
        status(429, Retry_After=7), status(503, Retry_After=date), status(429, Retry_After="x"), good
    )
    assert_whole(server.fetch(source))
    assert server.pauses[0] == 7
    assert 25 < server.pauses[1] <= 30
    assert server.pauses[2] == 4
    with pytest.raises(DownloadError, match=r"429 .*asks to wait 3600 s"):
        server.fetch(server.source(status(429, Retry_After=3600), path="/long"))
    assert len(server.pauses) == 3


# --- bodies that are not whole, and their resumption ---


@pytest.mark.parametrize("trouble", [cut_off, reset_midway])
def test_a_cut_off_body_is_resumed(trouble: Callable[[Request], object], server: Server) -> None:
    assert_whole(server.fetch(server.source(trouble, good)))
    _, headers = server.seen[1]
    assert headers["Range"] == f"bytes={HALF}-"
    assert headers["If-Range"] == TAG
    assert server.pauses == [1]


def test_a_later_call_resumes(server: Server) -> None:
    with pytest.raises(DownloadError, match=f"cut off after {HALF:,} of {len(BODY):,} bytes"):
        server.fetch(server.source(cut_off), pauses=())
    assert_whole(server.fetch(server.source(good)))
    assert server.seen[1][1]["Range"] == f"bytes={HALF}-"


def test_a_body_is_never_accepted_cut_off(server: Server, cache: Path) -> None:
    for steps in ([cut_off], [sends(BODY, Content_Length=len(BODY) + 1)], [sends(BODY, Content_Length=HALF)]):
        with pytest.raises(DownloadError, match="cut off"):
            server.fetch(server.source(*steps))
        assert_nothing_kept(cache)

    def endless(request: Request) -> None:
        request.head(200)
        request.wfile.write(BODY)

    with pytest.raises(DownloadError, match="does not say how long"):
        server.fetch(server.source(endless))
    with pytest.raises(DownloadError, match="does not say how long"):
        server.fetch(server.source(sends(BODY, Content_Length="many")))
    assert_nothing_kept(cache)


def test_a_server_that_ignores_ranges(server: Server) -> None:
    assert_whole(server.fetch(server.source(cut_off, sends(BODY, ETag=TAG))))
    assert "Range" in server.seen[1][1]


def test_a_file_that_changes_is_not_spliced(server: Server) -> None:
    assert_whole(server.fetch(server.source(cut_off, changed)), OTHER)

    def careless(request: Request) -> None:  # honours Range, not If-Range, but tells the new tag
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        span = {"Content_Range": f"bytes {start}-{len(OTHER) - 1}/{len(OTHER)}"} if start else {}
        request.head(206 if start else 200, Content_Length=len(OTHER) - start, ETag=OTHER_TAG, **span)
        request.wfile.write(OTHER[start:])

    assert_whole(server.fetch(server.source(cut_off, careless, path="/careless")), OTHER)


def test_without_a_validator_nothing_is_resumed(server: Server) -> None:
    for index, headers in enumerate([{}, {"ETag": 'W/"weak"'}]):
        cut = sends(BODY[:HALF], Content_Length=len(BODY), **headers)
        assert_whole(server.fetch(server.source(cut, good, path=f"/{index}")))
        assert "Range" not in server.seen[-1][1]
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    cut = sends(BODY[:HALF], Content_Length=len(BODY), Last_Modified=date)
    server.fetch(server.source(cut, good, path="/dated"))
    assert server.seen[-1][1]["If-Range"] == date


@pytest.mark.parametrize("span", ["bytes 0-9/10", f"bytes {HALF + 1}-{len(BODY) - 1}/{len(BODY)}", "nonsense", ""])
def test_a_wrong_part_is_not_spliced(span: str, server: Server) -> None:
    wrong = sends(BODY[HALF:], 206, Content_Range=span, ETag=TAG)
    assert_whole(server.fetch(server.source(cut_off, wrong, good)))
    assert "Range" not in server.seen[2][1]


def test_a_part_that_is_too_long(server: Server) -> None:
    source = server.source(cut_off)
    with pytest.raises(DownloadError):
        server.fetch(source, pauses=())
    (part,) = download.cache_folder().rglob("*.part")
    part.write_bytes(BODY + b"more")
    assert_whole(server.fetch(server.source(good)))  # by way of 416
    assert server.pauses == [1]
    with pytest.raises(DownloadError, match="HTTP 206, which was not asked for"):
        server.fetch(server.source(sends(BODY, 206), path="/unasked"))


# --- wrong bytes ---


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (PAGE, "is a web page"),
        (b"version https://git-lfs", "begins with b'version '.*not a .tar.gz"),
        (b"", "is empty"),
        (BODY[:-1] + b"\xff", "is an archive that is damaged"),
        (BODY[:1000], "is an archive that is damaged or cut off"),
    ],
)
def test_wrong_bytes(body: bytes, message: str, server: Server, cache: Path) -> None:
    with pytest.raises(DownloadError, match=f"what came {message}"):
        server.fetch(server.source(sends(body)))
    assert_nothing_kept(cache)
    assert not list(cache.rglob("*.part*"))
    found = server.fetch(server.source(sends(body)), server.source(good, path="/good"))
    assert found.source.url.endswith("/good")


def test_too_large(server: Server, cache: Path) -> None:
    with pytest.raises(DownloadError, match="announces 5,000,000,000 bytes"):
        server.fetch(server.source(sends(BODY, Content_Length=5_000_000_000)))

    def endless(request: Request) -> None:
        request.head(200, Transfer_Encoding="chunked")
        while True:
            request.wfile.write(b"10000\r\n" + b"\x1f\x8b" * 0x8000 + b"\r\n")

    with pytest.raises(DownloadError, match="sends more than 1,000,000 bytes"):
        server.fetch(server.source(endless), max_bytes=1_000_000)
    assert_nothing_kept(cache)
    assert not list(cache.rglob("*.part*"))


# --- servers that are slow ---


@pytest.mark.parametrize(
    ("trouble", "message", "tries"),
    [
        (stall, "silent for 0.3 s", 4),
        (silent, "silent for 0.3 s", 2),
        (drip, "less than 1024 bytes per second", 2),
        (drip_head, "silent for 0.3 s", 2),
    ],
)
def test_slow_servers_are_no_hang(
    trouble: Callable[[Request], object], message: str, tries: int, server: Server
) -> None:
    server.released = threading.Event()  # type: ignore[attr-defined]
    start = time.monotonic()
    with pytest.raises(DownloadError, match=message):
        server.fetch(server.source(trouble), timeout=0.3)
    assert time.monotonic() - start < 5
    assert len(server.seen) == tries
    server.seen.clear()
    assert_whole(server.fetch(server.source(trouble, good, path="/then"), timeout=0.3))
    server.released.set()  # type: ignore[attr-defined]


def test_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="refuses the connection"):
        fetch([Source("tflite", f"http://127.0.0.1:{port}/x", "x.tflite")], progress=False)


# --- redirects ---


def to(location: str, code: int = 302) -> Callable[[Request], object]:
    return status(code, Location=location)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(code: int, server: Server) -> None:
    server.source(cut_off, good, path="/there")
    assert_whole(server.fetch(server.source(to("/there", code))))
    assert server.seen[-1][1]["Range"] == f"bytes={HALF}-"


def test_redirects_that_are_not_followed(server: Server, cache: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    for index, location in enumerate([secret.as_uri(), "ftp://127.0.0.1/x", "data:,x", "http://[bad/", "javascript:x"]):
        with pytest.raises(DownloadError, match=r"redirect|Redirect|no usable address"):
            server.fetch(server.source(to(location), path=f"/{index}"))
    with pytest.raises(DownloadError, match="infinite loop"):
        server.fetch(server.source(to("/file")))
    for index in range(20):
        server.source(to(f"/chain{index + 1}"), path=f"/chain{index}")
    with pytest.raises(DownloadError, match="infinite loop"):
        server.fetch(server.source(to("/chain1"), path="/chain0"))
    assert server.pauses == []
    assert_nothing_kept(cache)


def test_a_redirect_does_not_leave_https() -> None:
    request = urllib.request.Request("https://127.0.0.1/x")
    with pytest.raises(Exception, match=r"redirects to 'http://127\.0\.0\.1/y', which is not followed"):
        download._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://127.0.0.1/y")
    assert download._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://127.0.0.1/y")


# --- addresses, the cache, other processes ---


def test_addresses_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(BODY)
    for url in ((tmp_path / "secret").as_uri(), "ftp://127.0.0.1/x", "/etc/passwd", ""):
        with pytest.raises(DownloadError, match="not an address of http or https"):
            fetch([Source("tensorflow", url, "model.tar.gz")])
    for url in ("http://127.0.0.1:port/x", "http://127.0.0.1/a b", "http:///x"):
        with pytest.raises(DownloadError, match=r"no usable address|no connection"):
            fetch([Source("tensorflow", url, "model.tar.gz")], progress=False)
    for name in ("../model.tar.gz", "/model.tar.gz", "", ".."):
        with pytest.raises(DownloadError, match="no plain file name"):
            fetch([Source("tensorflow", "http://127.0.0.1/x", name)])


def test_the_message_lists_every_source_and_what_to_do(server: Server, cache: Path) -> None:
    sources = [
        server.source(status(403), path="/one"),
        server.source(sends(PAGE), path="/two"),
        server.source(cut_off, path="/three"),
    ]
    with pytest.raises(DownloadError) as caught:
        server.fetch(*sources)
    text = str(caught.value)
    for source, reason in zip(sources, ("HTTP 403 Forbidden", "is a web page", "cut off after"), strict=True):
        (line,) = (line for line in text.splitlines() if source.url in line)
        assert reason in line
    for part in ("model.tar.gz", "--weights FILE", 'pretrained="FILE"', "MOVINET_HOME", str(cache)):
        assert part in text
    assert caught.value.exit_code == 5
    with pytest.raises(DownloadError, match=r"no source of the file answered.* none is known"):
        fetch([])


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = server.source(good), server.source(good, path="/other")
    found = server.fetch(source)
    monkeypatch.setenv("MOVINET_OFFLINE", "1")
    assert server.fetch(source) == found
    with pytest.raises(DownloadError, match=r"model\.tar\.gz is not in the cache .* MOVINET_OFFLINE .*--weights FILE"):
        server.fetch(other)
    monkeypatch.setenv("MOVINET_OFFLINE", "0")
    server.fetch(other)
    assert len(server.seen) == 2


def test_a_damaged_cached_file_is_refused(server: Server) -> None:
    source = server.source(good)
    found = server.fetch(source)
    before = found.path.stat()
    found.path.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
    os.utime(found.path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same date
    with pytest.raises(DownloadError) as caught:
        server.fetch(source)
    damaged = hashlib.sha256(found.path.read_bytes()).hexdigest()
    for part in (str(found.path), found.sha256, damaged, "delete it"):
        assert part in str(caught.value)
    found.path.unlink()
    assert_whole(server.fetch(source))


def test_a_file_put_into_the_cache_by_hand(server: Server) -> None:
    source = server.source(good)
    found = server.fetch(source)
    pin = found.path.with_name("model.tar.gz.json")
    for broken in (None, "{", "[]"):
        pin.unlink()
        if broken:
            pin.write_text(broken)
        assert server.fetch(source) == found
        assert_whole(found)
    pin.unlink()
    found.path.write_bytes(PAGE)
    with pytest.raises(DownloadError, match="is a web page, not the file; delete it"):
        server.fetch(source)
    assert len(server.seen) == 1


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DownloadError, match=r"cache folder .*file.* cannot be written \(Not a directory\).*MOVINET_HOME"
    ):
        server.fetch(server.source(good), cache=tmp_path / "file" / "cache")
    assert server.seen == []


def test_a_full_disk(server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match=r"cannot be written \(No space left on device\)"):
        server.fetch(server.source(good))
    assert_nothing_kept(cache)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert download.cache_folder() == tmp_path / "home"
    monkeypatch.setenv("MOVINET_HOME", "~/x")
    assert download.cache_folder() == Path.home() / "x"
    monkeypatch.delenv("MOVINET_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "movinet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert download.cache_folder() == Path.home() / ".cache" / "movinet"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert download.cache_folder() == Path.home() / "Library" / "Caches" / "movinet"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert download.cache_folder() == tmp_path / "movinet"


def test_two_processes_at_once(server: Server, cache: Path) -> None:
    source = server.source(slowly)
    code = (
        "from movinet.registry import Source; from movinet.weights.download import fetch;"
        f"print(fetch([Source('tensorflow', {source.url!r}, 'model.tar.gz')]).path)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while not server.seen:
        assert other.poll() is None
        time.sleep(0.01)
    found = server.fetch(source)
    assert other.communicate()[0].strip() == str(found.path)
    assert_whole(found)
    assert len(server.seen) == 1  # the later one waited, and took what the other had fetched


def test_without_a_lock_nothing_is_spoilt(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LOCK_PATIENCE", 0.0)
    monkeypatch.setattr(download, "_try_lock", lambda _: False)
    source = server.source(slowly)
    found: list[Fetched] = []
    threads = [threading.Thread(target=lambda: found.append(server.fetch(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(server.seen) == 4
    assert_whole(found[0])


def test_threads_share_a_download(server: Server) -> None:
    source = server.source(slowly)
    found: list[Fetched] = []
    threads = [threading.Thread(target=lambda: found.append(server.fetch(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(server.seen) == 1
    assert_whole(found[0])


def test_neither_torch_nor_numpy_is_needed() -> None:
    code = "import sys, movinet.weights.download as d; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
