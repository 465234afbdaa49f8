"""Downloads against a real server on this machine, and archives made by hand to do harm."""

import io
import json
import os
import shutil
import stat
import threading
import zipfile
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from utils.machinery import archives
from utils.machinery.archives import download, unpack
from utils.machinery.errors import DownloadError

PAYLOAD = bytes(range(256)) * 3000  # 768,000 bytes: several blocks


class Server(ThreadingHTTPServer):
    """Serves one payload; what it does wrong is set by a test."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = PAYLOAD
        self.ranges = True
        self.validators = {"ETag": '"first"'}
        self.announce_length = True
        self.endless = False  # sends the payload again and again
        self.cuts = deque()  # after how many bytes the next connections break; None: they don't
        self.statuses = deque()  # HTTP answers that come before the good ones
        self.seen = []  # the Range header of every request, None where there was none

    def handle_error(self, *_):
        """Says nothing of clients that hang up early, as they should where the file is wrong."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.seen.append(self.headers["Range"])
        if server.statuses:
            self.send_error(server.statuses.popleft())
            return
        start, total = 0, len(server.payload)
        current = self.headers["If-Range"] in server.validators.values()
        if server.ranges and self.headers["Range"] and current:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        for name, value in server.validators.items():
            self.send_header(name, value)
        if server.announce_length:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        cut = server.cuts.popleft() if server.cuts else None
        while server.endless:
            self.wfile.write(server.payload)
        self.wfile.write(server.payload[start:] if cut is None else server.payload[start:][:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def zip_bytes(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(server, tmp_path):
    target = download(server.url, tmp_path / "new" / "file.bin")
    assert target.read_bytes() == PAYLOAD
    assert names_in(tmp_path / "new") == ["file.bin"]


def test_a_cut_connection_is_continued_where_it_broke(server, tmp_path):
    server.cuts = deque([300_000, 200_000])
    target = download(server.url, tmp_path / "file.bin")
    assert target.read_bytes() == PAYLOAD
    assert server.seen == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_continues_what_an_earlier_one_left(server, tmp_path):
    server.cuts = deque([300_000, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match="300,000 bytes have come so far"):
        download(server.url, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    server.cuts.clear()
    server.seen.clear()
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.seen == ["bytes=300000-"]


def test_last_modified_serves_where_the_etag_is_weak(server, tmp_path):
    server.validators = {"ETag": 'W/"weak"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.cuts = deque([300_000])
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.seen == [None, "bytes=300000-"]


def test_a_file_that_changed_in_between_is_fetched_anew(server, tmp_path):
    server.cuts = deque([300_000, 0, 0, 0, 0])
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "file.bin")
    server.cuts.clear()
    server.payload, server.validators = PAYLOAD[::-1], {"ETag": '"second"'}
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD[::-1]


@pytest.mark.parametrize("lacking", ["ranges", "validators"])
def test_without_range_support_or_validator_it_starts_anew(server, tmp_path, lacking):
    setattr(server, lacking, {"ranges": False, "validators": {}}[lacking])
    server.cuts = deque([300_000])
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD


def test_bytes_of_another_address_are_never_continued(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    memo = {"url": "http://elsewhere/file", "validator": '"first"', "length": len(PAYLOAD)}
    (tmp_path / "file.bin.part.json").write_text(json.dumps(memo))
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.seen == [None]


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    server.cuts = deque([300_000, 0, 0, 0, 0])
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "file.bin")
    server.cuts.clear()
    server.statuses = deque([416])
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.seen[-1] is None


def test_a_truncated_zip_of_unannounced_length_is_not_taken_for_whole(server, tmp_path):
    server.payload = zip_bytes(("photo.jpg", os.urandom(100_000)))
    server.announce_length = False
    server.cuts = deque([50_000])
    with pytest.raises(DownloadError, match="no whole zip archive"):
        download(server.url, tmp_path / "file.zip")
    assert names_in(tmp_path) == []


def test_a_web_page_instead_of_an_archive_is_refused(server, tmp_path):
    server.payload = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(DownloadError, match=r"begins with .*DOCTYPE html"):
        download(server.url, tmp_path / "file.zip")
    assert names_in(tmp_path) == []


def test_a_whole_file_is_not_asked_for_again(server, tmp_path):
    server.payload = zip_bytes(("photo.jpg", b"whole"))
    (tmp_path / "file.zip").write_bytes(server.payload[:-10])
    for _ in range(2):
        assert zipfile.is_zipfile(download(server.url, tmp_path / "file.zip"))
    assert len(server.seen) == 1


def test_what_never_ends_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LIMIT", 2_000_000)
    server.endless, server.announce_length = True, False
    with pytest.raises(DownloadError, match="more than 2,000,000 bytes"):
        download(server.url, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin.part").exists()


def test_a_piece_is_never_added_to_a_file_of_unknown_length(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(PAYLOAD[:300_000])
    memo = {"url": server.url, "validator": '"first"', "length": None}
    (tmp_path / "file.bin.part.json").write_text(json.dumps(memo))
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD
    assert server.seen == [None]


def test_a_piece_that_does_not_end_where_it_should_is_given_up(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(PAYLOAD[:300_000])
    memo = {"url": server.url, "validator": '"first"', "length": len(PAYLOAD)}
    (tmp_path / "file.bin.part.json").write_text(json.dumps(memo))
    server.endless, server.announce_length = True, False
    with pytest.raises(DownloadError, match="more than 768,000 bytes"):
        download(server.url, tmp_path / "file.bin")
    assert server.seen == ["bytes=300000-"]


def test_a_password_in_the_address_is_not_repeated(tmp_path):
    for address in ("http://me:secret@host/file", "ftp://me:secret@host/file", "http://[me:secret"):
        with pytest.raises(DownloadError) as refused:
            download(address, tmp_path / "file.bin")
        assert "@" not in str(refused.value)


def test_404_is_reported_at_once(server, tmp_path):
    server.statuses = deque([404])
    with pytest.raises(DownloadError, match=r"404.*place it by hand"):
        download(server.url, tmp_path / "file.bin")
    assert len(server.seen) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = deque([503, 429])
    assert download(server.url, tmp_path / "file.bin").read_bytes() == PAYLOAD


def test_no_network_is_an_error_that_says_so(server, tmp_path):
    server.server_close()
    with pytest.raises(DownloadError, match=r"no connection.*Check the network"):
        download(server.url, tmp_path / "file.bin")


def test_other_addresses_than_http_are_refused(tmp_path):
    with pytest.raises(DownloadError, match="not an address"):
        download(Path(__file__).as_uri(), tmp_path / "file.bin")


def test_too_little_room_is_seen_before_the_bytes_come(server, tmp_path, monkeypatch):
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(DownloadError, match="room for 1,000 in"):
        download(server.url, tmp_path / "file.bin")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_named_and_an_older_file_stays(server, tmp_path, monkeypatch):
    (tmp_path / "file.zip").write_bytes(b"older")
    part = tmp_path / "file.zip.part"
    part.symlink_to("/dev/full")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(DownloadError, match="No space left on device"):
        download(server.url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == b"older"


def test_an_archive_is_unpacked_without_what_macos_adds(tmp_path):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(
        zip_bytes(
            ("Flicker8k_Dataset/", b""),
            ("Flicker8k_Dataset/one.jpg", b"first"),
            ("Flicker8k_Dataset/.DS_Store", b"x"),
            ("__MACOSX/Flicker8k_Dataset/._one.jpg", b"x"),
            ("readme.txt", b"second"),
        )
    )
    folder = unpack(archive, tmp_path / "photos")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"Flicker8k_Dataset/one.jpg", "readme.txt"}
    assert (folder / "readme.txt").read_bytes() == b"second"
    assert names_in(tmp_path) == ["photos", "photos.zip"]


def symbolic_link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3  # Unix
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    "member",
    [
        "/absolute.txt",
        "../outside.txt",
        "folder/../../outside.txt",
        "..\\outside.txt",
        "C:\\outside.txt",
        "C:outside.txt",
        "\\\\server\\share.txt",
        symbolic_link("link"),
    ],
    ids=str,
)
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, member):
    archive = tmp_path / "evil.zip"
    archive.write_bytes(zip_bytes(("good.txt", b"good"), (member, b"/etc")))
    with pytest.raises(DownloadError, match=r"evil\.zip can't be unpacked: it holds"):
        unpack(archive, tmp_path / "inner" / "folder")
    assert names_in(tmp_path / "inner") == []
    assert names_in(tmp_path) == ["evil.zip", "inner"]


def test_a_bomb_is_refused_by_the_sizes_that_it_declares(tmp_path):
    archive = tmp_path / "bomb.zip"
    archive.write_bytes(zip_bytes(*((f"{index}.txt", bytes(60_000)) for index in range(2))))
    with pytest.raises(DownloadError, match="120,000 bytes, more than 100,000"):
        unpack(archive, tmp_path / "folder", limit=100_000)
    assert names_in(tmp_path) == ["bomb.zip"]


def test_a_bomb_that_declares_too_little_is_refused(tmp_path):
    honest = zip_bytes(("bomb.txt", bytes(60_000)))
    lying = honest.replace((60_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != honest
    (tmp_path / "bomb.zip").write_bytes(lying)
    with pytest.raises(DownloadError):
        unpack(tmp_path / "bomb.zip", tmp_path / "folder", limit=1000)
    assert names_in(tmp_path) == ["bomb.zip"]


def test_what_really_comes_is_counted_whatever_the_reader_believes(tmp_path, monkeypatch):
    archive = tmp_path / "bomb.zip"
    archive.write_bytes(zip_bytes(("bomb.txt", b"ten bytes.")))
    endless = io.BytesIO(bytes(1 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: endless)
    with pytest.raises(DownloadError, match="more bytes than it declares"):
        unpack(archive, tmp_path / "folder")
    assert names_in(tmp_path) == ["bomb.zip"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    content = bytearray(zip_bytes(("first.txt", b"first" * 100), ("photo.jpg", os.urandom(9000))))
    content[4000] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(DownloadError, match="fetch it again"):
        unpack(tmp_path / "damaged.zip", tmp_path / "folder")
    assert names_in(tmp_path) == ["damaged.zip"]


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "page.zip").write_bytes(b"<html>")
    with pytest.raises(DownloadError, match=r"page\.zip can't be unpacked"):
        unpack(tmp_path / "page.zip", tmp_path / "folder")
    with pytest.raises(DownloadError, match="No such file"):
        unpack(tmp_path / "missing.zip", tmp_path / "folder")


def test_a_name_that_stands_twice_is_refused(tmp_path):
    archive = tmp_path / "twice.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):  # it takes some trouble to make one
        archive.write_bytes(zip_bytes(("one.txt", b"a"), ("one.txt", b"b")))
    with pytest.raises(DownloadError, match="File exists"):
        unpack(archive, tmp_path / "folder")


def test_a_folder_with_something_in_it_is_not_touched(tmp_path):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zip_bytes(("one.txt", b"new")))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    with pytest.raises(DownloadError, match="already has something in it"):
        unpack(archive, tmp_path / "folder")
    assert names_in(tmp_path / "folder") == ["mine.txt"]


def test_what_a_killed_run_left_does_not_get_in_and_a_folder_of_the_users_stays(tmp_path):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(zip_bytes(("one.txt", b"new")))
    for name in (".folder-1.unpacking", "folder.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old.txt").write_text("old")
    assert names_in(unpack(archive, tmp_path / "folder")) == ["one.txt"]
    assert names_in(tmp_path) == ["folder", "folder.part", "photos.zip"]
