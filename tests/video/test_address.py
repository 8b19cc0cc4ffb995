from __future__ import annotations

import functools
import http.server
import socket
import threading
import time

import pytest

from movinet.errors import VideoError
from movinet.video import open_video
from movinet.video.source import find_source
from tests.video.synthetic import make_video, number_of


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    make_video(tmp_path / "a.mkv", 12, 10)
    (tmp_path / "text.mp4").write_text("hello " * 500)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def stalled(tmp_path):
    """A server that says nothing; or, once `body` is set, sends that much of a video and then nothing."""
    data = make_video(tmp_path / "a.mkv", 200, 10, size=(240, 320)).read_bytes()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    held: list[socket.socket] = []
    options = {"body": 0}

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            if options["body"]:
                connection.recv(4096)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nContent-Type: video/x-matroska\r\n\r\n"
                connection.sendall(head.encode() + data[: options["body"]])

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.mkv", options, len(data)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
    for connection in held:
        connection.close()


def test_video_from_a_server(server):
    with open_video(f"{server}/a.mkv", fps=5) as video:
        assert video.live
        assert [number_of(frame.image) for frame in video] == [0, 2, 4, 6, 8, 10]


def test_wrong_addresses(server):
    with pytest.raises(VideoError, match="404"):
        open_video(f"{server}/missing.mp4")
    with pytest.raises(VideoError, match="no video"):
        open_video(f"{server}/text.mp4")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(VideoError, match="refused"):
        open_video(f"http://127.0.0.1:{port}/a.mp4", timeout=5)


def test_a_silent_server_is_given_up(stalled):
    address, _, _ = stalled
    started = time.monotonic()
    with pytest.raises(VideoError, match="did not answer within 1 s"):
        open_video(address, timeout=1)
    assert time.monotonic() - started < 4


def test_a_server_that_stops_in_the_middle_is_given_up(stalled):
    address, options, length = stalled
    options["body"] = length * 3 // 4
    started = time.monotonic()
    with open_video(address, timeout=1) as video, pytest.raises(VideoError, match="sent nothing for 1 s"):
        list(video)
    assert time.monotonic() - started < 6


def test_passwords_stay_out_of_messages():
    address = "rtsp://user:secret@127.0.0.1:9/stream"
    assert find_source(address).name == "rtsp://127.0.0.1:9/stream"
    assert find_source(address).target == address
    with pytest.raises(VideoError) as caught:
        open_video(address, timeout=2)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)
