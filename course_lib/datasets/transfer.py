"""One download: tried again where that may help, and bounded in bytes and in time."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pooch
import requests
from tqdm.auto import tqdm

from course_lib.datasets.archives import MEGABYTE
from course_lib.datasets.recordings import DatasetError

ATTEMPTS = 3
SLOWEST = 10_000  # bytes a second, over four times the longest silence

_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

T = TypeVar("T")


def download(address: str, file: Path, most: int, progress: bool, timeout: float) -> None:
    """Download at most `most` bytes from an http or doi address into a file, with up to three attempts.

    `timeout` is the longest silence in seconds; in four times as long 10 kB a second must arrive. Raises DatasetError.
    """
    kind = pooch.DOIDownloader if address.startswith("doi:") else pooch.HTTPDownloader

    def attempt() -> None:
        file.unlink(missing_ok=True)
        with tqdm(unit="B", unit_scale=True, desc=address.rpartition("/")[2], disable=not progress) as bar:
            meter = _Meter(address, file, most, bar)
            # Not compressed on the way: the size on the disk is then what arrives.
            downloader = kind(meter, chunk_size=1 << 16, timeout=timeout, headers={"Accept-Encoding": "identity"})
            _watched(lambda: downloader(address, str(file), None), timeout, meter)

    _patiently(address, timeout, attempt)


def registered_checksum(address: str, timeout: float) -> str:
    """The checksum, as ALGORITHM:HEX, by which its repository knows the file at a doi address. Raises DatasetError."""

    def look_up() -> str:
        prefix, record, file = address.split("/", 2)
        repository = pooch.create(path="", base_url=f"{prefix}/{record}/")
        repository.load_registry_from_doi()
        return repository.registry[file]

    return _patiently(address, timeout, lambda: _watched(look_up, timeout))


class _Meter:
    """What pooch takes for a progress bar: it counts what is on the disk, and ends a download that grows too large."""

    def __init__(self, address: str, file: Path, most: int, bar: tqdm) -> None:
        self.address, self.file, self.most, self.bar = address, file, most, bar

    @property
    def total(self) -> int:
        return self.bar.total or 0

    @total.setter
    def total(self, promised: int) -> None:
        self.bar.total = promised or None
        self.update()

    @property
    def arrived(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def update(self, _: int = 0) -> None:
        self.bar.update(self.arrived - self.bar.n)
        if max(self.arrived, self.total) > self.most:
            raise DatasetError(
                f"{self.address} sends more than {self.most / MEGABYTE:.0f} MB, far more than the course expects; "
                "look for a newer version of the course"
            )

    def reset(self) -> None:
        """Pooch does so at the end."""

    close = reset


class _TooSlow(Exception):
    """Hardly anything arrives."""


def _watched(work: Callable[[], T], timeout: float, meter: _Meter | None = None) -> T:
    """The value of `work()`, done in a thread that is abandoned when hardly anything arrives for four timeouts.

    A timeout of the connection ends a silence only, and not a server that sends a byte now and then.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    before = 0
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                outcome.exception(4 * timeout)
            if outcome.done():
                return outcome.result()
            arrived = meter.arrived if meter else 0
            if arrived - before < SLOWEST * 4 * timeout:
                raise _TooSlow
            before = arrived
    finally:
        if meter:
            meter.most = -1  # ends the thread, if it still goes on, with the next bytes


def _patiently(address: str, timeout: float, attempt: Callable[[], T]) -> T:
    """The value of `attempt()`, tried again where that may help."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        # Where a repository answers nonsense pooch raises ValueError, KeyError or IndexError.
        except (requests.RequestException, ValueError, LookupError, _TooSlow) as error:
            answer = getattr(error, "response", None)
            lasting = answer.status_code < 500 if answer is not None else not isinstance(error, (*_BROKEN, _TooSlow))
            if lasting or number == ATTEMPTS:
                raise DatasetError(
                    f"{address} could not be downloaded: {_reason(error, timeout)}; "
                    "check your connection and try again later"
                ) from error
            time.sleep(number * timeout / 30)
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, _TooSlow):
        return f"less than {SLOWEST // 1000} kB a second arrived"
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer for {timeout:g} s"
    return "there is no connection, or it broke off" if isinstance(error, _BROKEN) else f"{error!r}"
