"""Fetch a published file into the cache, from the first of its sources that answers with the right bytes.

`fetch` never hangs, never accepts a cut-off or spliced body, and never leaves half a file where a reader would find it.
Standard library only. Layout of the cache (`MOVINET_HOME`, or `movinet` in the user's cache folder):

    <host>-<hash of the URL>/<file name>         the file, there only when whole
    <host>-<hash of the URL>/<file name>.json    its sha256, size and date, pinned when it came
    <host>-<hash of the URL>/<file name>.part    what has come so far, resumed by the next try
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import gzip
import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from movinet.errors import DownloadError
from movinet.registry import Source

Progress = bool | Callable[[int, int | None], None]

LONGEST_WAIT = 60.0  # seconds; a server that asks for more in Retry-After is given up
LOCK_PATIENCE = 600.0  # seconds to wait for another process that downloads the same file
_CHUNK = 1 << 16
_LOCAL_HINT = 'give a local file instead: --weights FILE on the command line, pretrained="FILE" in Python'


@dataclass(frozen=True)
class Fetched:
    """A published file in the cache, and the source it came from (which says how to read it)."""

    path: Path
    source: Source
    sha256: str


@dataclass(frozen=True)
class _Rules:
    progress: Progress
    timeout: float
    pauses: tuple[float, ...]
    min_rate: float
    max_bytes: int
    sleep: Callable[[float], None]


class _GaveUpError(Exception):
    """This source will not do; the text says why."""


class _TryAgainError(Exception):
    """Worth another try: after `wait` seconds at least; only once more if the server was `silent`."""

    def __init__(self, reason: str, wait: float = 0.0, silent: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.silent = silent


def cache_folder() -> Path:
    """`MOVINET_HOME`, or the folder `movinet` in the place where this system keeps users' caches."""
    if home := os.environ.get("MOVINET_HOME"):
        return Path(home).expanduser()
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "movinet"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "movinet"
        xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative one is to be ignored, says its specification
        return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "movinet"
    except RuntimeError:
        raise DownloadError("the home folder is not known; set MOVINET_HOME to a folder for downloads") from None


def fetch(
    sources: Sequence[Source],
    *,
    cache: Path | None = None,
    progress: Progress = True,
    timeout: float = 30.0,
    pauses: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    min_rate: float = 1024.0,
    max_bytes: int = 1 << 30,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """The file that `sources` publish, from the cache or from the first of them that answers with the right bytes.

    A file that is in the cache already is taken whichever source it came from, after its bytes were compared with the
    SHA-256 pinned at its first use. With `MOVINET_OFFLINE=1` nothing else is done.

    Args:
        sources: Places of one file, best first; `http` and `https`.
        cache: Folder to keep it in; by default `cache_folder()`.
        progress: A bar on stderr if that is a terminal (True), nothing (False), or a function of the bytes so far and
            of all bytes (None where the server does not say).
        timeout: Seconds a server may stay silent, and take for the head of its answer.
        pauses: Seconds between tries of one source after a passing failure (5xx, 429, connection lost); `Retry-After`
            prolongs them up to `LONGEST_WAIT`.
        min_rate: Bytes per second that must come, measured over each `timeout` seconds.
        max_bytes: Largest file accepted.
        sleep: What pauses are made with.

    Raises `DownloadError`: no source had it (each is listed with its reason), a cached file is not what it was, the
    cache cannot be written, or the network is needed and switched off.
    """
    folder = cache_folder() if cache is None else Path(cache)
    rules = _Rules(progress, timeout, tuple(pauses), min_rate, max_bytes, sleep)
    for source in sources:
        if Path(source.file_name).name != source.file_name or source.file_name in ("", ".", ".."):
            raise DownloadError(f"{source.file_name!r} of {source.url} is no plain file name")
        if found := _cached(source, folder):
            return found
    if os.environ.get("MOVINET_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        raise DownloadError(
            f"{_names(sources)} is not in the cache {folder} and MOVINET_OFFLINE forbids to download it; unset that,"
            f" or {_LOCAL_HINT}"
        )
    reasons = []
    for source in sources:
        try:
            return _download(source, folder, rules)
        except _GaveUpError as reason:
            reasons.append(f"\n  {source.url}: {reason}")
    raise DownloadError(
        f"no source of {_names(sources)} answered with the right bytes:{''.join(reasons) or ' none is known'}\n"
        f"{_LOCAL_HINT[0].upper()}{_LOCAL_HINT[1:]}. Or put it in the cache on a machine that can download it and set"
        f" MOVINET_HOME to that folder (now {folder})."
    )


def _names(sources: Sequence[Source]) -> str:
    return " or ".join(dict.fromkeys(source.file_name for source in sources)) or "the file"


# --- the cache ---


def _place(source: Source, folder: Path) -> Path:
    """Where a source's file lies: files of the same name from different URLs are different files."""
    host = re.sub(r"[^\w.-]", "_", urllib.parse.urlsplit(source.url).hostname or "unknown")
    return folder / f"{host}-{hashlib.sha256(source.url.encode()).hexdigest()[:12]}" / source.file_name


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _cached(source: Source, folder: Path) -> Fetched | None:
    """The file if it is there and has its pinned SHA-256; one without a pin, put there by hand, is pinned now."""
    path = _place(source, folder)
    if not path.is_file():
        return None
    pin = _beside(path, ".json")
    try:
        found = _sha256(path)
        wanted = _read_json(pin).get("sha256")
        if wanted is None:
            if reason := _wrong_bytes(path, source.kind):
                raise DownloadError(f"the cached file {path} {reason}; delete it to download it afresh")
            with contextlib.suppress(OSError):  # a cache that others prepared may be read-only
                _write_pin(pin, path, source, found)
        elif wanted != found:
            raise DownloadError(
                f"the cached file {path} was changed or damaged: its sha256 is {found}, but it came with {wanted};"
                " delete it to download it afresh"
            )
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"the cached file {path} cannot be read: {error.strerror or error}") from None
    return Fetched(path, source, found)


def _write_pin(pin: Path, path: Path, source: Source, sha256: str) -> None:
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"url": source.url, "sha256": sha256, "size": path.stat().st_size, "date": date}
    beside = _beside(pin, f".{secrets.token_hex(4)}")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(pin)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_bytes(path: Path, kind: str) -> str | None:
    """What is wrong with a file of this kind, judged by its first bytes and, for archives, by its end."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[:2] == b"\x1f\x8b" and kind in ("tensorflow", "saved_model", "tflite"):
        return _broken_gzip(path)
    if kind == "tflite" and start[4:8] == b"TFL3":
        return None
    if kind == "port" and start[:4] == b"PK\x03\x04":
        return None if zipfile.is_zipfile(path) else "is an archive without its end"
    if kind == "port" and start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return None
    if start.lstrip().startswith(b"<"):
        return "is a web page, not the file"
    wanted = {"tflite": "a TensorFlow Lite file", "port": "a PyTorch file"}.get(kind, "a .tar.gz archive")
    return f"begins with {start[:8]!r}, which is not {wanted}" if start else "is empty"


def _broken_gzip(path: Path) -> str | None:
    """Read an archive through to its checksum: a server may announce fewer bytes than the file has."""
    budget = 4 << 30
    try:
        with gzip.open(path) as file:
            while chunk := file.read(1 << 20):
                budget -= len(chunk)
                if budget < 0:
                    return "unpacks to more than any model has"
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return "is an archive that is damaged or cut off"
    return None


@contextlib.contextmanager
def _locked(path: Path, rules: _Rules) -> Iterator[bool]:
    """Hold the lock of a download, waiting for its holder; False if it cannot be had. Goes when its process ends."""
    with path.open("ab") as file:
        deadline, told = time.monotonic() + LOCK_PATIENCE, rules.progress is not True or not sys.stderr.isatty()
        while not (held := _try_lock(file)) and time.monotonic() < deadline:
            if not told:
                print(f"waiting for another process that downloads {path.stem}", file=sys.stderr)
                told = True
            time.sleep(0.05)
        yield held


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- one source ---


class _Part:
    """The bytes that have come so far, and what the server called that version of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes = _beside(path, ".json")

    def resume(self) -> tuple[int, str]:
        """Bytes to go on from and the validator to send along; (0, "") where a safe resumption is not possible."""
        validator = _read_json(self.notes).get("validator")
        size = self.path.stat().st_size if self.path.is_file() else 0
        return (size, validator) if size and isinstance(validator, str) and validator else (0, "")

    def begin(self, validator: str) -> None:
        self.path.write_bytes(b"")
        self.notes.write_text(json.dumps({"validator": validator}))

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def _download(source: Source, folder: Path, rules: _Rules) -> Fetched:
    path = _place(source, folder)
    if urllib.parse.urlsplit(source.url).scheme not in ("http", "https"):
        raise _GaveUpError("not an address of http or https")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_beside(path, ".lock"), rules) as held:
            if found := _cached(source, folder):  # another process was faster
                return found
            part = _Part(_beside(path, ".part" if held else f".{secrets.token_hex(4)}.part"))
            try:
                _receive(source.url, part, rules)
                if reason := _wrong_bytes(part.path, source.kind):
                    part.drop()
                    raise _GaveUpError(f"what came {reason}")
                sha256 = _sha256(part.path)
                # The pin first: a pin without a file is harmless, a file without one would be trusted.
                _write_pin(_beside(path, ".json"), part.path, source, sha256)
                part.path.replace(path)
                part.drop()
            finally:
                if not held:
                    part.drop()
    except DownloadError:
        raise
    except OSError as error:  # those of the network have become other things in `_attempt`
        raise DownloadError(
            f"the cache folder {folder} cannot be written ({error.strerror or error}); set MOVINET_HOME to a folder"
            " with room that you may write to"
        ) from None
    return Fetched(path, source, sha256)


def _receive(url: str, part: _Part, rules: _Rules) -> None:
    """Try until the whole body is in `part`; raises `_GaveUpError` when it cannot be had."""
    pauses, tries = list(rules.pauses), 1
    while True:
        try:
            return _attempt(url, part, rules)
        except _TryAgainError as trouble:
            if trouble.silent:
                del pauses[1:]
            if not pauses or trouble.wait > LONGEST_WAIT:
                raise _GaveUpError(f"{trouble} (after {tries} tries)" if tries > 1 else str(trouble)) from None
            rules.sleep(max(pauses.pop(0), trouble.wait))
            tries += 1


def _attempt(url: str, part: _Part, rules: _Rules) -> None:
    offset, validator = part.resume()
    # Whatever is compressed in transit could not be resumed or measured.
    headers = {"User-Agent": "movinet (Python)", "Accept": "*/*", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=rules.timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                part.drop()
            raise _judge_status(error.code, error.msg, error.headers) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _judge_failure(error, rules) from None
    with response:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
        if response.status == 206 and offset:
            span = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != offset or _validator(response.headers) not in ("", validator):
                part.drop()
                raise _TryAgainError("answered with another part of the file than was asked for")
            total = int(span[2]) if span[2] != "*" else offset + total if total is not None else None
        elif response.status == 200:
            offset = 0  # it ignores ranges, or has a new version of the file
            part.begin(_validator(response.headers))
        else:
            raise _GaveUpError(f"answered with HTTP {response.status}, which was not asked for")
        if total is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise _GaveUpError("does not say how long the file is, so that a cut-off one could not be told")
        if (total or 0) > rules.max_bytes:
            part.drop()
            raise _GaveUpError(f"announces {total:,} bytes, more than any published file has")
        _copy(response, part, offset, total, rules)


def _copy(response: Any, part: _Part, offset: int, total: int | None, rules: _Rules) -> None:
    """Append the body to the part and see that all of it came, in time."""
    done = checked = offset
    since = time.monotonic()
    with part.path.open("ab") as file, _reporter(rules.progress, part.path, offset, total) as report:
        while True:
            try:
                chunk = response.read1(_CHUNK)  # `read` would wait, without end, until a slow server has filled it
            except (OSError, http.client.HTTPException) as error:
                raise _judge_failure(error, rules, silent=done == offset) from None
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            report(done)
            if done > rules.max_bytes:
                part.drop()
                raise _GaveUpError(f"sends more than {rules.max_bytes:,} bytes")
            if (now := time.monotonic()) - since >= rules.timeout:
                if done - checked < rules.min_rate * (now - since):
                    raise _TryAgainError(f"sends less than {rules.min_rate:g} bytes per second", silent=True)
                checked, since = done, now
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done > total:
        part.drop()
        raise _TryAgainError(f"sent {done:,} bytes of a file of {total:,}")
    if total is not None and done < total:
        raise _TryAgainError(f"cut off after {done:,} of {total:,} bytes")


@contextlib.contextmanager
def _reporter(progress: Progress, path: Path, done: int, total: int | None) -> Iterator[Callable[[int], object]]:
    if callable(progress):
        yield lambda now: progress(now, total)
    elif not progress:
        yield lambda now: None
    else:
        from tqdm import tqdm

        # `disable=None` keeps it off anything but a terminal.
        with tqdm(
            desc=path.stem, total=total, initial=done, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar:
            yield lambda now: bar.update(now - bar.n)


def _validator(headers: Any) -> str:
    """What `If-Range` may name a version of the file by: a strong ETag, else a date."""
    tag = str(headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _judge_status(code: int, text: str, headers: Any) -> Exception:
    reason = f"HTTP {code} {text.splitlines()[0] if text else ''}".strip()
    if code == 416:
        return _TryAgainError(f"{reason}: the file is not what it was")
    if code in (408, 429) or code >= 500:
        wait = _retry_after(headers.get("Retry-After", ""))
        asks = f", asks to wait {wait:.0f} s" if wait > LONGEST_WAIT else ""
        return _TryAgainError(reason + asks, wait)
    return _GaveUpError(reason)


def _retry_after(text: str) -> float:
    """Seconds from a `Retry-After` header: a number or a date."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _judge_failure(error: Exception, rules: _Rules, silent: bool = True) -> Exception:
    """A reason for humans out of what urllib raised, and whether another try makes sense."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return _TryAgainError(f"silent for {rules.timeout:g} s", silent=silent)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _GaveUpError(f"its certificate is not trusted ({cause.verify_message})")
    if isinstance(cause, socket.gaierror):
        return _GaveUpError("its name does not resolve; is there a network?")
    if isinstance(cause, ConnectionRefusedError):
        return _GaveUpError("it refuses the connection")
    if isinstance(cause, http.client.InvalidURL | ValueError) and not isinstance(cause, OSError):
        return _GaveUpError(f"no usable address ({cause})")
    if isinstance(cause, ConnectionError | http.client.HTTPException | ssl.SSLError):
        return _TryAgainError(f"connection lost ({type(cause).__name__})")
    return _GaveUpError(f"no connection ({cause})")


# --- HTTP ---


def _opener() -> urllib.request.OpenerDirector:
    """As urllib's own (proxies from the environment), with the three changes below."""
    return urllib.request.build_opener(_Redirects, _HTTPHandler, _HTTPSHandler)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Only to http and https, and never from https to http; urllib itself ends loops and long chains."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            fp.close()
            raise _GaveUpError(f"redirects to {newurl[:200]!r}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Prompt(http.client.HTTPConnection):
    """A connection whose answer's head must come within its timeout, however evenly a server drips it."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()
        connection = self.sock

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout or 30.0, cut)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        except (OSError, http.client.HTTPException):
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        if late.is_set():
            response.close()
            raise TimeoutError
        return response


class _PromptTLS(_Prompt, http.client.HTTPSConnection):
    pass


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Prompt, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PromptTLS, req)
