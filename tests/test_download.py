"""Fetching a data set from a server that behaves, and from servers, archives and disks that do not."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import soundfile as sf

from course_lib.datasets import archives, fsdd, transfer
from course_lib.datasets.check import check, write_manifest
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.download import fetch
from course_lib.datasets.recordings import DatasetError

Route = Callable[[BaseHTTPRequestHandler], None]
INSIDE = "tiny-1.0"
TIMEOUT = 0.2


class Server:
    """A web server on this computer whose pages are functions."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.visits: Counter[str] = Counter()
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.visits[self.path] += 1
                server.routes.get(self.path, lambda handler: handler.send_error(404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def serve(self, path: str, answer: bytes | Route) -> str:
        """Put a page at a path and return its address."""
        self.routes[path] = answer if callable(answer) else lambda handler: send(handler, answer)
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, promised: int | None = None, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if promised is None else promised))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("COURSE_DATA", str(folder))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    return folder


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """The published recordings of a tiny data set: two digits, two speakers, two takes."""
    folder = tmp_path / "original"
    (folder / "recordings").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in [f"{digit}_{speaker}_{take}" for digit in (0, 1) for speaker in ("ann", "bob") for take in (0, 1)]:
        sf.write(folder / "recordings" / f"{name}.wav", noise.uniform(-0.5, 0.5, 200), 8000, subtype="PCM_16")
    return folder


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Callable[..., Dataset]:
    """Make a Dataset for the tiny data set at the given addresses."""

    def make(*archives: str, inside: str = INSIDE) -> Dataset:
        return Dataset(
            name="tiny",
            title="Tiny Digits",
            licence="CC0",
            citation="",
            archives=archives,
            inside=inside,
            megabytes=1,
            sample_rate=8000,
            protocols=(),
            class_counts={"0": 4, "1": 4},
            manifest=tmp_path / "tiny.sha256",
            read=fsdd.read,
            write_stand_in=lambda *_, **__: None,
        )

    write_manifest(make(), original, tmp_path / "tiny.sha256")
    return make


def zipped(folder: Path, *members: tuple[zipfile.ZipInfo | str, bytes], prefix: str = f"{INSIDE}/") -> bytes:
    """A folder as a zip file, with further members put in front."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
        for path in sorted(folder.rglob("*.wav")):
            archive.write(path, f"{prefix}{path.relative_to(folder).as_posix()}")
    return file.getvalue()


def tarred(folder: Path, *members: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    """A folder as a tar file, with further empty members put in front."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member in members:
            archive.addfile(member)
        archive.add(folder, INSIDE)
    return file.getvalue()


def refusal(wanted: Dataset, home: Path, timeout: float = TIMEOUT) -> str:
    """The message with which a fetch fails; whatever the reason, it leaves nothing and names the server."""
    with pytest.raises(DatasetError) as caught:
        fetch(wanted, progress=False, timeout=timeout)
    assert list(home.iterdir()) == []
    message = str(caught.value)
    assert wanted.archives[0].partition("#")[0].rpartition("/")[0] in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pack", [zipped, tarred, lambda folder: tarred(folder, mode="w")])
def test_fetches_the_published_recordings(
    pack: Callable[[Path], bytes], server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    wanted = tiny(server.serve("/tiny", pack(original)))
    folder = fetch(wanted, progress=False)
    assert folder == home / "tiny"
    assert check(wanted, progress=False) == []
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_a_folder_that_is_there_is_not_fetched_again(home: Path, tiny: Callable[..., Dataset]) -> None:
    (home / "tiny").mkdir(parents=True)
    (home / ".tiny-archives").mkdir()
    assert fetch(tiny("http://127.0.0.1:9/nobody")) == home / "tiny"
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_several_archives_make_one_folder(
    server: Server, home: Path, tiny: Callable[..., Dataset], halves: list[bytes]
) -> None:
    wanted = tiny(*[server.serve(f"/{digit}.zip", halves[digit]) for digit in (0, 1)], inside="")
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []


@pytest.mark.parametrize("around", ["", "wrapped/"])
def test_a_folder_around_everything_is_left_away(
    around: str, server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    body = zipped(original, (f"{around}README", b"Read me."), prefix=around)
    wanted = tiny(server.serve("/tiny.zip", body), inside="*")
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []


def test_prints_a_bar_only_on_request(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset], capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = tiny(server.serve("/tiny.zip", zipped(original)))
    shutil.rmtree(fetch(wanted, progress=False))
    assert capfd.readouterr() == ("", "")
    fetch(wanted, progress=True)
    assert "100%" in capfd.readouterr().err


def test_offline_forbids_the_download(
    home: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Dataset]
) -> None:
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(DatasetError, match="COURSE_OFFLINE forbids"):
        fetch(tiny("http://127.0.0.1:9/nobody"))
    assert not home.exists()


def test_an_unknown_name_lists_the_known_ones(home: Path) -> None:
    with pytest.raises(DatasetError, match="fsdd"):
        fetch("no such data set")


def test_a_dropped_connection_is_tried_again(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    body = zipped(original)

    def drop_once(handler: BaseHTTPRequestHandler) -> None:
        send(handler, body if server.visits["/tiny.zip"] > 1 else body[: len(body) // 2], promised=len(body))

    wanted = tiny(server.serve("/tiny.zip", drop_once))
    assert check(wanted, fetch(wanted, progress=False, timeout=TIMEOUT), progress=False) == []
    assert server.visits["/tiny.zip"] == 2


def test_connections_that_keep_dropping(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    body = zipped(original)
    address = server.serve("/tiny.zip", lambda handler: send(handler, body[: len(body) // 2], promised=len(body)))
    assert "broke off" in refusal(tiny(address), home)
    assert server.visits["/tiny.zip"] > 1


@pytest.mark.parametrize("begun", [b"", b"PK"])
def test_a_server_that_falls_silent(begun: bytes, server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        if begun:
            send(handler, begun, promised=10_000)
        server.closing.wait(0.4)

    assert "no answer for 0.1 s" in refusal(tiny(server.serve("/tiny.zip", stall)), home, timeout=0.1)


def test_nobody_answers(server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/tiny.zip", b"")
    server.http.server_close()
    assert "no connection" in refusal(tiny(address), home)


def test_a_missing_file_is_not_asked_for_again(server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/gone.zip", lambda handler: handler.send_error(404))
    assert "404 Not Found" in refusal(tiny(address), home)
    assert server.visits["/gone.zip"] == 1


def test_a_server_in_trouble_is_asked_again(server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/tiny.zip", lambda handler: handler.send_error(503))
    assert "503 Service Unavailable" in refusal(tiny(address), home)
    assert server.visits["/tiny.zip"] > 1


@pytest.mark.parametrize("address", ["gopher://127.0.0.1/tiny.zip", "tiny.zip", "doi:nonsense", "http://"])
def test_an_address_that_is_none(address: str, home: Path, tiny: Callable[..., Dataset]) -> None:
    assert "could not be downloaded" in refusal(tiny(address), home)


@pytest.mark.parametrize("checksum", ["", "#sha256=" + "0" * 64])
def test_a_web_page_instead_of_an_archive(
    checksum: str, server: Server, home: Path, tiny: Callable[..., Dataset]
) -> None:
    address = server.serve("/tiny.zip", b"\n<!DOCTYPE html><html>Please sign in to the guest network</html>")
    assert "web page" in refusal(tiny(address + checksum), home)


def test_checksum_in_the_address(server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]) -> None:
    body = zipped(original)
    address = server.serve("/tiny.zip", body)
    assert "wrong checksum" in refusal(tiny(f"{address}#sha256={hashlib.sha256(b'').hexdigest()}"), home)
    fetch(tiny(f"{address}#sha256={hashlib.sha256(body).hexdigest().upper()}"), progress=False)
    assert (home / "tiny").is_dir()


@pytest.mark.parametrize("mark", ["  ", " *", "  ./"])
def test_checksum_in_a_list_beside_the_archive(
    mark: str, server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    body = zipped(original)
    address = server.serve("/1.0/tiny.zip", body) + "#sha256sums"
    server.serve("/1.0/SHA256SUMS.txt", f"{'0' * 64}{mark}tiny.zip\n".encode())
    assert "wrong checksum" in refusal(tiny(address), home)
    listed = f"{'0' * 64}{mark}other.zip\n{hashlib.sha256(body).hexdigest()}{mark}tiny.zip\n"
    server.serve("/1.0/SHA256SUMS.txt", listed.encode())
    tiny().manifest.write_text("")  # the publisher's checksum vouches for the samples
    assert fetch(tiny(address), progress=False) == home / "tiny"


def test_an_archive_that_the_list_does_not_name_is_compared_by_its_samples(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    wanted = tiny(server.serve("/tiny.zip", zipped(original)) + "#sha256sums")
    server.serve("/SHA256SUMS.txt", f"{'0' * 64}  other.zip\n".encode())
    shutil.rmtree(fetch(wanted, progress=False))
    sf.write(original / "recordings" / "1_bob_1.wav", np.zeros(200), 8000, subtype="PCM_16")
    server.serve("/tiny.zip", zipped(original))
    assert "different from the published ones: 1_bob_1" in refusal(wanted, home)


def test_a_list_of_checksums_that_is_not_there(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    address = server.serve("/tiny.zip", zipped(original)) + "#sha256sums"
    assert "404 Not Found" in refusal(tiny(address), home)


@pytest.mark.parametrize(
    ("file", "checksum", "problem"),
    [("tiny.zip", "good", None), ("tiny.zip", "0" * 32, "wrong checksum"), ("other.zip", "good", "could not be")],
)
def test_checksum_of_the_repository(
    file: str,
    checksum: str,
    problem: str | None,
    server: Server,
    home: Path,
    original: Path,
    tiny: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = zipped(original)
    address = server.serve("/content", body)
    digest = hashlib.md5(body).hexdigest() if checksum == "good" else checksum
    record = {"id": 7, "files": [{"key": "tiny.zip", "checksum": f"md5:{digest}", "links": {"self": address}}]}
    get = requests.get

    def pretend(url: str, **options: object) -> object:
        if url.startswith("https://doi.org/"):
            return SimpleNamespace(url="https://zenodo.org/records/7", status_code=200)
        if url.startswith("https://zenodo.org/api/"):
            return SimpleNamespace(json=lambda: record)
        return get(url, **options)

    monkeypatch.setattr(requests, "get", pretend)
    wanted = tiny(f"doi:10.5281/zenodo.7/{file}")
    if problem:
        assert problem in refusal(wanted, home)
    else:
        assert check(wanted, fetch(wanted, progress=False), progress=False) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_an_archive_that_was_cut(
    pack: Callable[[Path], bytes],
    share: float,
    server: Server,
    home: Path,
    original: Path,
    tiny: Callable[..., Dataset],
) -> None:
    body = pack(original)
    assert "damaged" in refusal(tiny(server.serve("/tiny", body[: int(share * len(body))])), home)


@pytest.mark.parametrize("pack", [zipped, tarred, lambda folder: tarred(folder, mode="w")])
def test_damaged_bytes_never_pass(
    pack: Callable[[Path], bytes], server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    body = pack(original)
    for position in np.linspace(0, len(body) - 1, 25).astype(int):
        damaged = bytearray(body)
        damaged[position] ^= 0xFF
        wanted = tiny(server.serve("/tiny", bytes(damaged)))
        try:
            folder = fetch(wanted, progress=False, timeout=TIMEOUT)
        except DatasetError:
            assert list(home.iterdir()) == []
        else:  # a time of day, say
            assert check(wanted, folder, progress=False) == []
            shutil.rmtree(folder)


def zip_link() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("link")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return link


@pytest.mark.parametrize(
    "member", ["../evil.wav", f"{INSIDE}/../../evil.wav", "/evil.wav", "..\\evil.wav", "C:\\evil.wav", zip_link()]
)
def test_a_zip_that_tries_to_escape(
    member: str | zipfile.ZipInfo, server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    body = zipped(original, (member, b"../../evil.wav"))
    message = refusal(tiny(server.serve("/tiny.zip", body)), home)
    assert repr(member if isinstance(member, str) else member.filename) in message
    assert not list(home.parent.rglob("*evil*"))


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../evil.wav", tarfile.REGTYPE, ""),
        ("/evil.wav", tarfile.REGTYPE, ""),
        ("evil", tarfile.SYMTYPE, "../../evil.wav"),
        ("evil", tarfile.SYMTYPE, "/tmp"),
        ("evil", tarfile.LNKTYPE, "../../original/recordings/0_ann_0.wav"),
        ("evil", tarfile.CHRTYPE, ""),
        ("evil", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_tar_that_tries_to_escape(
    name: str, kind: bytes, link: str, server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    message = refusal(tiny(server.serve("/tiny.tar.gz", tarred(original, member))), home)
    assert repr(name) in message
    assert not list(home.parent.rglob("*evil*"))


def test_an_archive_of_something_else(server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/tiny.zip", zipped(original, prefix="tiny-2.0/"))
    assert f"no folder {INSIDE}" in refusal(tiny(address), home)


def test_recordings_that_are_not_the_published_ones(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    sf.write(original / "recordings" / "1_bob_1.wav", np.zeros(200), 8000, subtype="PCM_16")
    (original / "recordings" / "0_ann_0.wav").unlink()
    message = refusal(tiny(server.serve("/tiny.zip", zipped(original))), home)
    assert "missing: 0_ann_0" in message
    assert "different from the published ones: 1_bob_1" in message


def test_interrupting_leaves_nothing(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[bytes]:
        yield b"PK"
        raise KeyboardInterrupt

    wanted = tiny(server.serve("/tiny.zip", zipped(original)))
    monkeypatch.setattr(requests.Response, "iter_content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(wanted, progress=False)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_disk_that_fills_up(
    pack: Callable[[Path], bytes],
    server: Server,
    home: Path,
    original: Path,
    tiny: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    wanted = tiny(server.serve("/tiny", pack(original)))
    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    with pytest.raises(DatasetError, match=r"No space left on device.*COURSE_DATA") as caught:
        fetch(wanted, progress=False)
    assert str(home) in str(caught.value)
    assert list(home.iterdir()) == []


def test_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Dataset]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "file" / "data"))
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    with pytest.raises(DatasetError, match=r"cannot write tiny to .*file.*COURSE_DATA"):
        fetch(tiny("http://127.0.0.1:9/nobody"), progress=False)


def test_another_process_finishes_first(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset]
) -> None:
    def overtaken(handler: BaseHTTPRequestHandler) -> None:
        shutil.copytree(original, home / "tiny")
        send(handler, zipped(original))

    wanted = tiny(server.serve("/tiny.zip", overtaken))
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []
    assert [path.name for path in home.iterdir()] == ["tiny"]


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"PK" + bytes(100_000))


def test_a_body_without_an_end_is_cut_off(server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    assert "sends more than 2 MB" in refusal(tiny(server.serve("/tiny.zip", endless)), home)
    assert server.visits["/tiny.zip"] == 1


def test_too_large_a_promise_is_refused_at_once(server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/tiny.zip", lambda handler: send(handler, b"PK", promised=10**9))
    assert "sends more than 2 MB" in refusal(tiny(address), home)


def test_a_body_that_is_compressed_on_the_way_is_counted_as_it_lies_on_the_disk(
    server: Server, home: Path, tiny: Callable[..., Dataset]
) -> None:
    body = gzip.compress(bytes(50_000_000))

    def bomb(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    assert "sends more than 2 MB" in refusal(tiny(server.serve("/tiny.zip", bomb)), home)


def test_a_list_of_checksums_without_an_end(server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/tiny.zip", b"PK") + "#sha256sums"
    server.serve("/SHA256SUMS.txt", endless)
    assert "SHA256SUMS.txt sends more than 1 MB" in refusal(tiny(address), home)


def tar_bomb(folder: Path, kind: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as archive:
        member = tarfile.TarInfo(f"{INSIDE}/zeros")
        member.size = 20_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    return file.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        lambda folder: zipped(folder, ("zeros", bytes(20_000_000))),
        lambda folder: zipped(folder, *[(f"zeros{number}", bytes(500_000)) for number in range(10)]),
        lambda folder: tar_bomb(folder, "w:gz"),
        lambda folder: tar_bomb(folder, "w:xz"),
    ],
)
def test_an_archive_that_holds_far_too_much(
    pack: Callable[[Path], bytes],
    server: Server,
    home: Path,
    original: Path,
    tiny: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in (zipfile.ZipFile, tarfile.TarFile):
        monkeypatch.setattr(kind, "extractall", lambda *_, **__: pytest.fail("unpacked"))
    assert "holds more than 4 MB" in refusal(tiny(server.serve("/tiny", pack(original))), home)


def test_an_archive_of_far_too_many_files(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 7)
    assert "or 7 files" in refusal(tiny(server.serve("/tiny.zip", zipped(original))), home)


def drip(handler: BaseHTTPRequestHandler, closing: threading.Event, head: bytes) -> None:
    handler.wfile.write(head)
    with contextlib.suppress(OSError):
        while not closing.wait(0.02):
            handler.wfile.write(b"P")
            handler.wfile.flush()


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"HTTP/1.0 200 OK\r\nX-Slow: "],
    ids=["body", "headers"],
)
def test_a_server_that_trickles(head: bytes, server: Server, home: Path, tiny: Callable[..., Dataset]) -> None:
    address = server.serve("/tiny.zip", lambda handler: drip(handler, server.closing, head))
    assert "less than 10 kB a second" in refusal(tiny(address), home, timeout=0.05)
    assert server.visits["/tiny.zip"] == transfer.ATTEMPTS


def test_a_disk_that_is_too_small_is_named_before_the_download(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(tiny(server.serve("/tiny.zip", zipped(original))), megabytes=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_499_000_000))
    with pytest.raises(DatasetError, match=r"needs about 2500 MB in .*, and 2499 MB are free; .*COURSE_DATA"):
        fetch(wanted, progress=False)
    assert server.visits["/tiny.zip"] == 0 and list(home.iterdir()) == []


def test_the_size_is_said_first(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset], capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(tiny(server.serve("/tiny.zip", zipped(original))), progress=True)
    assert capfd.readouterr().err.startswith("Tiny Digits: 1 MB to download, 2 MB of disk needed\n")


def test_a_data_set_of_unknown_size_is_not_downloaded(home: Path, tiny: Callable[..., Dataset]) -> None:
    for wanted in (replace(tiny("http://127.0.0.1:9/tiny.zip"), megabytes=0), tiny()):
        with pytest.raises(DatasetError, match="no archives of a known size"):
            fetch(wanted, progress=False)


@pytest.fixture
def halves(original: Path, tmp_path: Path) -> list[bytes]:
    """The tiny data set in two archives, one for each digit."""
    archives = []
    for digit in "01":
        half = tmp_path / digit / "recordings"
        half.mkdir(parents=True)
        for path in (original / "recordings").glob(f"{digit}_*"):
            shutil.copy(path, half)
        archives.append(zipped(half.parent, prefix=""))
    return archives


def test_the_next_attempt_goes_on_where_this_one_stopped(
    server: Server, home: Path, tiny: Callable[..., Dataset], halves: list[bytes]
) -> None:
    digest = hashlib.sha256(halves[0]).hexdigest()
    first = f"{server.serve('/0.zip', halves[0])}#sha256={digest}"
    wanted = tiny(first, server.serve("/1.zip", lambda handler: handler.send_error(404)), inside="")
    with pytest.raises(DatasetError, match=r"404 Not Found; .* archives that are complete are kept"):
        fetch(wanted, progress=False)
    (waiting,) = home.iterdir()
    assert waiting.name == ".tiny-archives" and len(list(waiting.iterdir())) == 1
    server.serve("/1.zip", halves[1])
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []
    assert (server.visits["/0.zip"], server.visits["/1.zip"]) == (1, 2)
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_an_archive_that_was_damaged_while_it_waited_comes_again(
    server: Server, home: Path, tiny: Callable[..., Dataset], halves: list[bytes]
) -> None:
    digest = hashlib.sha256(halves[0]).hexdigest()
    first = f"{server.serve('/0.zip', halves[0])}#sha256={digest}"
    wanted = tiny(first, server.serve("/1.zip", lambda handler: handler.send_error(404)), inside="")
    with pytest.raises(DatasetError, match="404"):
        fetch(wanted, progress=False)
    (archive,) = (home / ".tiny-archives").iterdir()
    archive.write_bytes(bytes(10))
    server.serve("/1.zip", halves[1])
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []
    assert server.visits["/0.zip"] == 2


def test_archives_that_are_not_the_data_set_do_not_wait(
    server: Server, home: Path, tiny: Callable[..., Dataset], halves: list[bytes]
) -> None:
    addresses = [server.serve("/0.zip", halves[0]), server.serve("/1.zip", halves[0])]
    assert "4 recordings instead of 8" in refusal(tiny(*addresses, inside=""), home)


def test_two_at_once_make_one_folder(
    server: Server, home: Path, tiny: Callable[..., Dataset], halves: list[bytes]
) -> None:
    wanted = tiny(*[server.serve(f"/{digit}.zip", halves[digit]) for digit in (0, 1)], inside="")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, wanted, False) for _ in range(2)]
    assert {each.result() for each in both} == {home / "tiny"}
    assert check(wanted, progress=False) == []
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_archives_stay_until_the_folder_has_its_name(
    server: Server, home: Path, tiny: Callable[..., Dataset], halves: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that still unpacks them then finds either the archives or the folder."""
    wanted = tiny(*[server.serve(f"/{digit}.zip", halves[digit]) for digit in (0, 1)], inside="")
    seen, rename = [], os.rename

    def looked_at(source: Path, target: Path) -> None:
        if Path(target) == home / "tiny":
            seen.append(len(list((home / ".tiny-archives").glob("*"))))
        rename(source, target)

    monkeypatch.setattr(os, "rename", looked_at)
    fetch(wanted, progress=False)
    assert seen == [2]
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_a_process_that_was_overtaken_while_it_unpacked_takes_what_is_there(
    server: Server, home: Path, original: Path, tiny: Callable[..., Dataset], halves: list[bytes]
) -> None:
    def overtaken(handler: BaseHTTPRequestHandler) -> None:
        shutil.copytree(original, home / "tiny")
        shutil.rmtree(home / ".tiny-archives")  # as the other process does
        send(handler, halves[1])

    wanted = tiny(server.serve("/0.zip", halves[0]), server.serve("/1.zip", overtaken), inside="")
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []
    assert [path.name for path in home.iterdir()] == ["tiny"]
