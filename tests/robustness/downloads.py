"""Downloads from a server on this machine that misbehaves, and archives made to do harm."""

import errno
import os
import shutil
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from tests.robustness import row
from tests.test_download import PAYLOAD, Server, names_in, symbolic_link, zip_bytes
from utils.machinery import archives
from utils.machinery.archives import download, unpack
from utils.machinery.errors import DownloadError

ARCHIVE = zip_bytes((zipfile.ZipInfo("a"), PAYLOAD))  # without a time: the same on every day


@contextmanager
def serving() -> Iterator[Server]:
    """A server of `PAYLOAD` that is asked without proxies and without pauses."""
    with (
        patch.dict(os.environ, {"no_proxy": "*"}),
        patch.object(archives, "PAUSE", 0.0),
        Server() as server,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def fetched(server: Server, file: Path) -> str:
    """Downloads `PAYLOAD`; checks that a file is never there before it is whole."""
    try:
        download(server.url, file)
    except DownloadError:
        assert not file.exists()
        raise
    assert file.read_bytes() == server.payload
    assert names_in(file.parent) == [file.name]
    asked = ", then ".join(said or "from the start" for said in server.seen)
    return f"the whole file is there (asked for it {asked})"


@row("Downloads", "cut in the middle")
def _(folder: Path) -> str:
    with serving() as server:
        server.cuts = deque([300_000])
        return fetched(server, folder / "file.bin")


@row("Downloads", "cut in the middle, again and again")
def _(folder: Path) -> str:
    with serving() as server:
        server.cuts = deque([300_000, 0, 0, 0, 0])
        return fetched(server, folder / "file.bin")


def give_up(server, file: Path) -> None:
    """Tries in vain to download from a server that cuts every attempt, and mends the server."""
    server.cuts = deque([300_000, 0, 0, 0, 0])
    with suppress(DownloadError):
        download(server.url, file)
    server.cuts.clear()


@row("Downloads", "given up, and started again")
def _(folder: Path) -> str:
    with serving() as server:
        give_up(server, folder / "file.bin")
        server.seen.clear()
        return fetched(server, folder / "file.bin")


@row("Downloads", "cut, and the server can't go on in the middle", {"ranges": False})
@row("Downloads", "cut, and the server names no version of the file", {"validators": {}})
def _(folder: Path, lacking: dict) -> str:
    with serving() as server:
        vars(server).update(lacking)
        server.cuts = deque([300_000])
        return fetched(server, folder / "file.bin")


@row("Downloads", "cut, and the file changed in between")
def _(folder: Path) -> str:
    with serving() as server:
        give_up(server, folder / "file.bin")
        server.payload, server.validators = PAYLOAD[::-1], {"ETag": '"second"'}
        return fetched(server, folder / "file.bin")


@row("Downloads", "a web page instead of an archive", b"<!DOCTYPE html><title>Sign in", None)
@row("Downloads", "half an archive of unknown length", ARCHIVE, 500)
def _(folder: Path, payload: bytes, cut: int | None) -> str:
    with serving() as server:
        server.payload, server.announce_length = payload, cut is None
        server.cuts = deque([cut])
        return fetched(server, folder / "file.zip")


@row("Downloads", "404", [404])
@row("Downloads", "busy, twice", [503, 429])
def _(folder: Path, statuses: list[int]) -> str:
    with serving() as server:
        server.statuses = deque(statuses)
        return fetched(server, folder / "file.bin")


@row("Downloads", "no network")
def _(folder: Path) -> str:
    with serving() as server:
        server.server_close()
        return fetched(server, folder / "file.bin")


@row("Downloads", "disk full: too little room for what is to come")
def _(folder: Path) -> str:
    nearly_full = shutil.disk_usage(folder)._replace(free=1000)
    with serving() as server, patch.object(shutil, "disk_usage", return_value=nearly_full):
        return fetched(server, folder / "file.bin")


@row("Downloads", "an address that is no web address")
def _(folder: Path) -> str:
    return str(download("file:///etc/passwd", folder / "file.bin"))


@row("Downloads", "an address with a password")
def _(folder: Path) -> str:
    return str(download("https://me:secret@example.org/file", folder / "file.bin"))


@row("Downloads", "no length, and no end")
def _(folder: Path) -> str:
    with serving() as server, patch.object(archives, "LIMIT", 2_000_000):
        server.endless, server.announce_length = True, False
        return fetched(server, folder / "file.bin")


# Archives


def unpacked(folder: Path, content: bytes, **options) -> str:
    """Unpacks an archive; checks that nothing is left of it unless all of it is right."""
    archive = folder / "file.zip"
    archive.write_bytes(content)
    try:
        unpack(archive, folder / "data" / "photos", **options)
    except DownloadError:
        assert names_in(folder) == ["data", "file.zip"]
        assert names_in(folder / "data") == []
        raise
    files = sorted(path.name for path in (folder / "data").rglob("*") if path.is_file())
    assert names_in(folder) == ["data", "file.zip"]
    return f"unpacked: {', '.join(files)}"


@row("Archives", "what macOS adds", "__MACOSX/._photo.jpg")
@row("Archives", "a path with ..", "../outside.txt")
@row("Archives", "a path with .. further in", "photos/../../outside.txt")
@row("Archives", "a path with .. as Windows writes it", "..\\outside.txt")
@row("Archives", "an absolute path", "/outside.txt")
@row("Archives", "an absolute path as Windows writes it", "C:\\outside.txt")
@row("Archives", "a symbolic link", symbolic_link("link"))
def _(folder: Path, member: str | zipfile.ZipInfo) -> str:
    return unpacked(folder, zip_bytes(("photo.jpg", b"good"), (member, b"/etc")))


@row("Archives", "a size bomb")
def _(folder: Path) -> str:
    return unpacked(folder, zip_bytes(("bomb.txt", bytes(120_000))), limit=100_000)


@row("Archives", "a size bomb that declares 10 bytes")
def _(folder: Path) -> str:
    honest = zip_bytes(("bomb.txt", bytes(60_000)))
    lying = honest.replace((60_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    return unpacked(folder, lying)


@row("Archives", "a damaged byte", lambda content: content.replace(b"good", b"gold"))
@row("Archives", "cut short", lambda content: content[:-10])
@row("Archives", "no archive", lambda content: b"<html>")
def _(folder: Path, damage: Callable[[bytes], bytes]) -> str:
    with zipfile.ZipFile(folder / "source.zip", "w") as archive:
        archive.writestr("photo.jpg", b"good")
    content = (folder / "source.zip").read_bytes()
    (folder / "source.zip").unlink()
    return unpacked(folder, damage(content))


@row("Archives", "disk full while it is unpacked")
def _(folder: Path) -> str:
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch.object(archives.ProgressBar, "update", side_effect=full):
        return unpacked(folder, zip_bytes(("photo.jpg", b"good")))


@row("Archives", "a folder that has something in it already")
def _(folder: Path) -> str:
    (folder / "file.zip").write_bytes(zip_bytes(("photo.jpg", b"new")))
    (folder / "photos").mkdir()
    (folder / "photos" / "mine.jpg").touch()
    try:
        return str(unpack(folder / "file.zip", folder / "photos"))
    finally:
        assert names_in(folder / "photos") == ["mine.jpg"]
