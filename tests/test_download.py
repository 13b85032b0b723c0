"""Fetching a data set from a server that behaves, and from servers, archives and disks that do not."""

from __future__ import annotations

import errno
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import soundfile as sf

from course_lib.datasets import fsdd
from course_lib.datasets.catalogue import Entry
from course_lib.datasets.check import check, write_manifest
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
def tiny(original: Path, tmp_path: Path) -> Callable[..., Entry]:
    """Make the catalogue's entry for the tiny data set at the given addresses."""

    def make(*archives: str, inside: str = INSIDE) -> Entry:
        return Entry(
            name="tiny",
            title="Tiny Digits",
            licence="CC0",
            citation="",
            archives=archives,
            inside=inside,
            megabytes=1,
            recordings=8,
            sample_rate=8000,
            protocols=("random",),
            class_counts={"0": 4, "1": 4},
            manifest=str(tmp_path / "tiny.sha256"),
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


def refusal(wanted: Entry, home: Path, timeout: float = TIMEOUT) -> str:
    """The message with which a fetch fails; whatever the reason, it leaves nothing and names the address."""
    with pytest.raises(DatasetError) as caught:
        fetch(wanted, progress=False, timeout=timeout)
    assert list(home.iterdir()) == []
    message = str(caught.value)
    assert wanted.archives[0].partition("#")[0] in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pack", [zipped, tarred, lambda folder: tarred(folder, mode="w")])
def test_fetches_the_published_recordings(
    pack: Callable[[Path], bytes], server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    wanted = tiny(server.serve("/tiny", pack(original)))
    folder = fetch(wanted, progress=False)
    assert folder == home / "tiny"
    assert check(wanted, progress=False) == []
    assert [path.name for path in home.iterdir()] == ["tiny"]


def test_a_folder_that_is_there_is_not_fetched_again(home: Path, tiny: Callable[..., Entry]) -> None:
    (home / "tiny").mkdir(parents=True)
    assert fetch(tiny("http://127.0.0.1:9/nobody")) == home / "tiny"


def test_several_archives_make_one_folder(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry], tmp_path: Path
) -> None:
    halves = []
    for digit in "01":
        half = tmp_path / digit / "recordings"
        half.mkdir(parents=True)
        for path in (original / "recordings").glob(f"{digit}_*"):
            shutil.copy(path, half)
        halves.append(server.serve(f"/{digit}.zip", zipped(half.parent, prefix="")))
    wanted = tiny(*halves, inside="")
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []


@pytest.mark.parametrize("around", ["", "wrapped/"])
def test_a_folder_around_everything_is_left_away(
    around: str, server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    body = zipped(original, (f"{around}README", b"Read me."), prefix=around)
    wanted = tiny(server.serve("/tiny.zip", body), inside="*")
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []


def test_prints_a_bar_only_on_request(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry], capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = tiny(server.serve("/tiny.zip", zipped(original)))
    shutil.rmtree(fetch(wanted, progress=False))
    assert capfd.readouterr() == ("", "")
    fetch(wanted, progress=True)
    assert "100%" in capfd.readouterr().err


def test_offline_forbids_the_download(home: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Entry]) -> None:
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(DatasetError, match="COURSE_OFFLINE forbids"):
        fetch(tiny("http://127.0.0.1:9/nobody"))
    assert not home.exists()


def test_an_unknown_name_lists_the_known_ones(home: Path) -> None:
    with pytest.raises(DatasetError, match="fsdd"):
        fetch("no such data set")


def test_a_dropped_connection_is_tried_again(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    body = zipped(original)

    def drop_once(handler: BaseHTTPRequestHandler) -> None:
        send(handler, body if server.visits["/tiny.zip"] > 1 else body[: len(body) // 2], promised=len(body))

    wanted = tiny(server.serve("/tiny.zip", drop_once))
    assert check(wanted, fetch(wanted, progress=False, timeout=TIMEOUT), progress=False) == []
    assert server.visits["/tiny.zip"] == 2


def test_connections_that_keep_dropping(server: Server, home: Path, original: Path, tiny: Callable[..., Entry]) -> None:
    body = zipped(original)
    address = server.serve("/tiny.zip", lambda handler: send(handler, body[: len(body) // 2], promised=len(body)))
    assert "broke off" in refusal(tiny(address), home)
    assert server.visits["/tiny.zip"] > 1


@pytest.mark.parametrize("begun", [b"", b"PK"])
def test_a_server_that_falls_silent(begun: bytes, server: Server, home: Path, tiny: Callable[..., Entry]) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        if begun:
            send(handler, begun, promised=10_000)
        server.closing.wait(0.4)

    assert "no answer for 0.1 s" in refusal(tiny(server.serve("/tiny.zip", stall)), home, timeout=0.1)


def test_nobody_answers(server: Server, home: Path, tiny: Callable[..., Entry]) -> None:
    address = server.serve("/tiny.zip", b"")
    server.http.server_close()
    assert "no connection" in refusal(tiny(address), home)


def test_a_missing_file_is_not_asked_for_again(server: Server, home: Path, tiny: Callable[..., Entry]) -> None:
    address = server.serve("/gone.zip", lambda handler: handler.send_error(404))
    assert "404 Not Found" in refusal(tiny(address), home)
    assert server.visits["/gone.zip"] == 1


def test_a_server_in_trouble_is_asked_again(server: Server, home: Path, tiny: Callable[..., Entry]) -> None:
    address = server.serve("/tiny.zip", lambda handler: handler.send_error(503))
    assert "503 Service Unavailable" in refusal(tiny(address), home)
    assert server.visits["/tiny.zip"] > 1


@pytest.mark.parametrize("address", ["gopher://127.0.0.1/tiny.zip", "tiny.zip", "doi:nonsense", "http://"])
def test_an_address_that_is_none(address: str, home: Path, tiny: Callable[..., Entry]) -> None:
    assert "could not be downloaded" in refusal(tiny(address), home)


@pytest.mark.parametrize("checksum", ["", "#sha256=" + "0" * 64])
def test_a_web_page_instead_of_an_archive(
    checksum: str, server: Server, home: Path, tiny: Callable[..., Entry]
) -> None:
    address = server.serve("/tiny.zip", b"\n<!DOCTYPE html><html>Please sign in to the guest network</html>")
    assert "web page" in refusal(tiny(address + checksum), home)


def test_checksum_in_the_address(server: Server, home: Path, original: Path, tiny: Callable[..., Entry]) -> None:
    body = zipped(original)
    address = server.serve("/tiny.zip", body)
    assert "wrong checksum" in refusal(tiny(f"{address}#sha256={hashlib.sha256(b'').hexdigest()}"), home)
    fetch(tiny(f"{address}#sha256={hashlib.sha256(body).hexdigest().upper()}"), progress=False)
    assert (home / "tiny").is_dir()


@pytest.mark.parametrize("mark", ["  ", " *", "  ./"])
def test_checksum_in_a_list_beside_the_archive(
    mark: str, server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    body = zipped(original)
    address = server.serve("/1.0/tiny.zip", body) + "#sha256sums"
    server.serve("/1.0/SHA256SUMS.txt", f"{'0' * 64}{mark}tiny.zip\n".encode())
    assert "wrong checksum" in refusal(tiny(address), home)
    listed = f"{'0' * 64}{mark}other.zip\n{hashlib.sha256(body).hexdigest()}{mark}tiny.zip\n"
    server.serve("/1.0/SHA256SUMS.txt", listed.encode())
    Path(tiny().manifest).write_text("")  # the publisher's checksum vouches for the samples
    assert fetch(tiny(address), progress=False) == home / "tiny"


def test_an_archive_that_the_list_does_not_name_is_compared_by_its_samples(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    wanted = tiny(server.serve("/tiny.zip", zipped(original)) + "#sha256sums")
    server.serve("/SHA256SUMS.txt", f"{'0' * 64}  other.zip\n".encode())
    shutil.rmtree(fetch(wanted, progress=False))
    sf.write(original / "recordings" / "1_bob_1.wav", np.zeros(200), 8000, subtype="PCM_16")
    server.serve("/tiny.zip", zipped(original))
    assert "different from the published ones: 1_bob_1" in refusal(wanted, home)


def test_a_list_of_checksums_that_is_not_there(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
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
    tiny: Callable[..., Entry],
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
    pack: Callable[[Path], bytes], share: float, server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    body = pack(original)
    assert "damaged" in refusal(tiny(server.serve("/tiny", body[: int(share * len(body))])), home)


@pytest.mark.parametrize("pack", [zipped, tarred, lambda folder: tarred(folder, mode="w")])
def test_damaged_bytes_never_pass(
    pack: Callable[[Path], bytes], server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
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
    member: str | zipfile.ZipInfo, server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
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
    name: str, kind: bytes, link: str, server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    message = refusal(tiny(server.serve("/tiny.tar.gz", tarred(original, member))), home)
    assert repr(name) in message
    assert not list(home.parent.rglob("*evil*"))


def test_an_archive_of_something_else(server: Server, home: Path, original: Path, tiny: Callable[..., Entry]) -> None:
    address = server.serve("/tiny.zip", zipped(original, prefix="tiny-2.0/"))
    assert f"no folder {INSIDE}" in refusal(tiny(address), home)


def test_recordings_that_are_not_the_published_ones(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry]
) -> None:
    sf.write(original / "recordings" / "1_bob_1.wav", np.zeros(200), 8000, subtype="PCM_16")
    (original / "recordings" / "0_ann_0.wav").unlink()
    message = refusal(tiny(server.serve("/tiny.zip", zipped(original))), home)
    assert "missing: 0_ann_0" in message
    assert "different from the published ones: 1_bob_1" in message


def test_interrupting_leaves_nothing(
    server: Server, home: Path, original: Path, tiny: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
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
    tiny: Callable[..., Entry],
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Entry]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "file" / "data"))
    monkeypatch.delenv("COURSE_OFFLINE", raising=False)
    with pytest.raises(DatasetError, match=r"cannot write tiny to .*file.*COURSE_DATA"):
        fetch(tiny("http://127.0.0.1:9/nobody"), progress=False)


def test_another_process_finishes_first(server: Server, home: Path, original: Path, tiny: Callable[..., Entry]) -> None:
    def overtaken(handler: BaseHTTPRequestHandler) -> None:
        shutil.copytree(original, home / "tiny")
        send(handler, zipped(original))

    wanted = tiny(server.serve("/tiny.zip", overtaken))
    assert check(wanted, fetch(wanted, progress=False), progress=False) == []
    assert [path.name for path in home.iterdir()] == ["tiny"]
