from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from movinet.errors import MovinetError, UsageError, VideoError
from movinet.video import open_video, probe
from movinet.video.timing import resample
from tests.video.synthetic import make_video, number_of, picture


def numbers(source, **options):
    with open_video(source, **options) as video:
        return [number_of(frame.image) for frame in video]


def refuse(source, *words, error=VideoError, **options):
    with pytest.raises(error) as caught:
        list(open_video(source, **options))
    message = str(caught.value)
    assert "\n" not in message
    assert "Errno" not in message
    for word in words:
        assert word in message
    return message


def test_every_frame_in_order(tmp_path):
    path = make_video(tmp_path / "a.mp4", 20, 10)
    with open_video(path) as video:
        assert (video.width, video.height, video.codec, video.live) == (64, 48, "mpeg4", False)
        assert video.duration == pytest.approx(2)
        assert video.rate == pytest.approx(10)
        assert video.frame_count == 20
        frames = list(video)
        assert not video.damage
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(20)])
    assert frames[0].image.dtype == np.uint8
    assert frames[0].image.shape == (48, 64, 3)
    corner = frames[0].image[2:8, 2:10].mean((0, 1))  # the red corner: channels are RGB
    np.testing.assert_allclose(corner, (220, 20, 20), atol=12)


@pytest.mark.parametrize(("fps", "step"), [(5, 2), (2, 5), (10, 1)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_sampling_a_constant_rate(tmp_path, suffix, fps, step):
    path = make_video(tmp_path / f"a.{suffix}", 20, 10)
    with open_video(path, fps=fps) as video:
        frames = list(video)
        assert video.frame_count == len(frames)
    assert [number_of(frame.image) for frame in frames] == list(range(0, 20, step))
    assert [frame.time for frame in frames] == [i / fps for i in range(len(frames))]


def test_a_slow_source_repeats_and_copies(tmp_path):
    path = make_video(tmp_path / "a.mp4", 4, 2)
    assert numbers(path, fps=6) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    with open_video(path, fps=6) as video:
        first = next(video)
        first.image[:] = 0
        assert next(video).image.any()


VARIABLE = [0, 0.02, 0.04, 0.5, 0.9, 0.92, 0.94, 0.96, 1.7, 1.72, 2.5]


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    path = make_video(tmp_path / "a.mkv", len(VARIABLE), 25, times=VARIABLE)
    ours = numbers(path, fps=5)
    expected = [max(i for i, t in enumerate(VARIABLE) if t <= n / 5 + 1e-3) for n in range(len(ours))]
    assert ours == expected
    assert ours[:4] == [0, 2, 2, 3]
    by_index = [item for _, item in resample(((i / 25, i) for i in range(len(VARIABLE))), 5, lambda: 0.04)]
    assert by_index != ours[: len(by_index)]  # what trusting the header's rate would give


@pytest.mark.parametrize("offset", [-3.0, 0, 12.345, 40000.0])
def test_any_start(tmp_path, offset):
    path = make_video(tmp_path / "a.mkv", 6, 10, offset=offset)
    with open_video(path) as video:
        assert [frame.time for frame in video] == pytest.approx([i / 10 for i in range(6)], abs=2e-3)


def test_a_clock_that_starts_anew(tmp_path):
    """Two transport streams, one after the other, a day apart: the second starts where the first ended."""
    parts = []
    for name, offset in (("a", 80000.0), ("b", 5.0)):
        part = make_video(tmp_path / f"{name}.ts", 10, 25, offset=offset, codec="mpeg2video")
        parts.append(part.read_bytes())
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    with open_video(path) as video:
        frames = list(video)
    assert [number_of(frame.image) for frame in frames] == [*range(10), *range(10)]
    gaps = np.diff([frame.time for frame in frames])
    assert gaps.min() > 0
    assert gaps.max() < 0.5


def test_no_timestamps_at_all(tmp_path):
    path = make_video(tmp_path / "a.m4v", 10, 10)  # a raw stream: the demuxer knows a rate, no times
    assert numbers(path) == list(range(10))
    with open_video(path) as video:
        times = [frame.time for frame in video]
    assert np.diff(times).min() > 0


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation(tmp_path, degrees):
    path = make_video(tmp_path / "a.mp4", 3, 10, rotation=degrees, size=(48, 80))
    with open_video(path) as video:
        image = next(video).image
        assert (video.height, video.width) == image.shape[:2]
    stored = picture(0, (48, 80))
    expected = np.rot90(stored, degrees // 90)  # set_display_rotation counts counter-clockwise
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 6
    assert image.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (10, 16), (33, 51), (300, 34), (17, 400)])
def test_odd_sizes(tmp_path, size):
    path = make_video(tmp_path / "a.mkv", 3, 10, size=size, codec="ffv1", pix_fmt="yuv444p")
    with open_video(path) as video:
        assert [frame.image.shape for frame in video] == [(*size, 3)] * 3


@pytest.mark.parametrize("pix_fmt", ["gray", "gray16le", "yuv420p10le", "yuv444p16le", "bgra", "yuva420p", "rgb48le"])
def test_pixel_formats(tmp_path, pix_fmt):
    path = make_video(tmp_path / "a.mkv", 3, 10, codec="ffv1", pix_fmt=pix_fmt)
    assert numbers(path) == [0, 1, 2]


def test_size_changes_in_the_middle(tmp_path):
    parts = [make_video(tmp_path / f"{h}.mpg", 5, 25, size=(h, 64), codec="mpeg2video") for h in (48, 96)]
    joined = tmp_path / "a.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(joined) as video:
        shapes = [frame.image.shape[0] for frame in video]
    assert set(shapes) == {48, 96}


def test_transparent_is_black(tmp_path):
    image = np.zeros((8, 8, 4), np.uint8)
    image[:4] = (255, 0, 0, 255)
    image[4:] = (0, 255, 0, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    frames = [Image.fromarray(image)] * 2
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=100)
    for name in ("a.png", "b.gif"):
        with open_video(tmp_path / name) as video:
            seen = next(video).image
        assert seen[1, 1].tolist() == [254 if name == "b.gif" and seen[1, 1, 0] == 254 else 255, 0, 0]
        assert seen[6, 6].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "name", ["-a.mp4", "a:b.mp4", "http:a.mp4", "100%.mp4", "a%03d.mp4", "a b'\"#?.mp4", "нет.mp4", "concat:x|y.mp4"]
)
def test_file_names_are_files(tmp_path, monkeypatch, name):
    if sys.platform == "win32":
        pytest.skip("Windows forbids these names")
    make_video(tmp_path / "plain.mp4", 3, 10).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(name) == numbers(tmp_path / name) == [0, 1, 2]


def test_pictures_with_patterns_in_their_names(tmp_path):
    for name in ("shot_%03d.png", "shot_001.png", "-x.png"):
        Image.fromarray(picture(9)).save(tmp_path / name)
        assert numbers(tmp_path / name) == [9]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_file_name_that_is_no_text(tmp_path):
    path = make_video(tmp_path / "a.mp4", 2, 10)
    odd = path.rename(tmp_path / "caf\udce9.mp4")
    assert numbers(odd) == [0, 1]
    refuse(tmp_path / "no\udce9.mp4", "no file or folder")


def test_folder_of_pictures(tmp_path):
    for number in (1, 2, 10, 9):
        Image.fromarray(picture(number)).save(tmp_path / f"frame{number}.{'PNG' if number > 2 else 'bmp'}")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "frame3.png").write_bytes(b"broken")
    with open_video(tmp_path) as video:
        frames = list(video)
        assert (video.rate, video.frame_count, video.codec) == (25, 5, "picture")
        assert video.damage.count == 1
        assert "1 pictures" in video.damage.text
    assert [number_of(frame.image) for frame in frames] == [1, 2, 9, 10]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.12, 0.16])
    assert numbers(tmp_path, fps=5, pictures_fps=10) == [1, 2, 10]


def test_one_picture(tmp_path):
    Image.fromarray(picture(77)).save(tmp_path / "a.jpg", quality=95)
    with open_video(tmp_path / "a.jpg", fps=5) as video:
        assert (video.codec, video.frame_count, video.duration, video.rate) == ("jpeg", 1, None, None)
        (frame,) = video
    assert number_of(frame.image) == 77
    turned = Image.fromarray(picture(77)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    turned.save(tmp_path / "b.jpg", quality=95, exif=exif)
    assert numbers(tmp_path / "b.jpg") == [77]
    grey = (np.arange(4096, dtype=np.uint16) * 16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "c.png")
    with open_video(tmp_path / "c.png") as video:
        np.testing.assert_array_equal(next(video).image[..., 0], grey >> 8)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations(tmp_path, suffix):
    frames = [Image.fromarray(picture(number)) for number in range(6)]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0, **options)
    with open_video(path) as video:
        seen = list(video)
    assert [number_of(frame.image) for frame in seen] == list(range(6))
    assert [frame.time for frame in seen] == pytest.approx([i * 0.2 for i in range(6)])
    assert numbers(path, fps=10) == [i for i in range(6) for _ in range(2)]


def test_a_picture_by_another_name(tmp_path):
    make_video(tmp_path / "a.mp4", 3, 10).rename(tmp_path / "a.png")
    assert numbers(tmp_path / "a.png") == [0, 1, 2]
    Image.fromarray(picture(5)).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.mp4")
    assert numbers(tmp_path / "b.mp4") == [5]


def test_latin1_metadata(tmp_path):
    path = make_video(tmp_path / "a.avi", 3, 10, metadata={"title": "XXXXXXXX"})
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"caf\xe9\xe9\xff\xfe!"))
    assert numbers(path) == [0, 1, 2]


def test_cut_and_damaged_files_tell(tmp_path):
    path = make_video(tmp_path / "a.mkv", 60, 10, size=(96, 128))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_video(path) as video:
        count = len(list(video))
    assert 5 < count < 58
    assert video.damage
    assert "ends at" in video.damage.text
    broken = bytearray(data)
    broken[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(broken)
    with open_video(path) as video:
        assert len(list(video)) > 20
    assert video.damage.count > 0


def test_errors_name_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse("missing.mp4", "'missing.mp4'", "no file or folder")
    refuse("gopher://x/y", "no file or folder", "rtsp://")
    refuse("nul\0byte.mp4", "cannot read")
    refuse("x" * 5000, "cannot read")
    (tmp_path / "empty.mp4").touch()
    refuse("empty.mp4", "empty (0 bytes)")
    (tmp_path / "text.mp4").write_text("hello " * 100)
    refuse("text.mp4", "not a video")
    (tmp_path / "notes.txt").write_text("hello\n" * 100)
    refuse("notes.txt", "not a video")
    (tmp_path / "bad.png").write_text("hello " * 100)
    refuse("bad.png", "not a picture")
    (tmp_path / "folder").mkdir()
    refuse("folder", "holds no pictures")
    (tmp_path / "folder" / "a.jpg").write_bytes(b"\xff\xd8\xff broken")
    refuse("folder", "none of the pictures")
    refuse("/dev/zero", "not a regular file")
    path = make_video(tmp_path / "a.mp4", 3, 10)
    refuse(path, "fps", error=UsageError, fps=0)
    refuse(path, "fps", error=UsageError, fps=float("nan"))


def test_only_sound(tmp_path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    refuse(path, "only sound")


@pytest.mark.parametrize("number", [98, "98"])
def test_camera_that_is_not_there(number):
    refuse(number, "camera 98")
    refuse(-1, "no camera number")


def test_hostile_sizes(tmp_path):
    path = make_video(tmp_path / "a.mkv", 2, 10, size=(200, 300))
    refuse(path, "300 x 200", "limit", max_pixels=59_999)
    assert len(numbers(path, max_pixels=60_000)) == 2
    Image.new("1", (3000, 2000)).save(tmp_path / "a.png")
    refuse(tmp_path / "a.png", "3000 x 2000", max_pixels=1_000_000)
    gif = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
    (tmp_path / "a.gif").write_bytes(gif)
    refuse(tmp_path / "a.gif")
    header = bytearray((tmp_path / "a.png").read_bytes())
    header[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "b.png").write_bytes(header)
    refuse(tmp_path / "b.png")


def test_one_pass_and_closing(tmp_path):
    path = make_video(tmp_path / "a.mp4", 5, 10)
    video = open_video(path)
    assert number_of(next(video).image) == 0
    assert [number_of(frame.image) for frame in video] == [1, 2, 3, 4]
    assert list(video) == []
    video.close()
    video.close()
    with pytest.raises(UsageError, match="closed"):
        next(video)
    assert (video.width, video.frame_count) == (64, 5)


def test_probe(tmp_path):
    info = probe(make_video(tmp_path / "a.mkv", 15, 10))
    assert (info.width, info.height, info.codec, info.frame_count) == (64, 48, "mpeg4", 15)
    with pytest.raises(MovinetError):
        probe(tmp_path / "missing")


def test_sound_and_covers_are_not_video(tmp_path):
    cover = make_video(tmp_path / "cover.mkv", 1, 10, size=(400, 400), codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(cover)) as source:
        image = bytes(next(source.demux(video=0)))
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 400, 400, "yuvj420p"
        stream.disposition = 0x400
        real = container.add_stream("mpeg4", rate=10)
        real.width, real.height, real.pix_fmt = 64, 48, "yuv420p"
        packet = av.Packet(image)
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1)
        packet.is_keyframe = True
        container.mux(packet)
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(real.encode(frame))
        container.mux(real.encode(None))
    with open_video(path) as video:
        assert (video.width, video.height) == (64, 48)
        assert len(list(video)) == 4


def test_ffmpeg_is_silent_and_import_is_light(tmp_path):
    path = make_video(tmp_path / "a.mkv", 60, 10, size=(96, 128))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    code = (
        "import sys; import movinet.video as v; assert 'av' not in sys.modules and 'torch' not in sys.modules\n"
        "video = v.open_video(sys.argv[1]); n = len(list(video)); print(n, video.damage.count > 0)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout.endswith("True\n")
    assert done.stdout.count("\n") == 1
