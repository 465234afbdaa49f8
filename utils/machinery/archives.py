"""Fetching an archive over an unreliable network, and unpacking it without trusting it.

The download is our own since `pooch`, the usual library, neither resumes nor bounds what it fetches
and unpacks.
"""

import glob
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from utils.machinery.errors import CaptionProjectError, DownloadError
from utils.machinery.files import read_json, write_json
from utils.machinery.progress import ProgressBar

ATTEMPTS = 4  # in a row without a new byte; a slow but moving download is never given up
PAUSE = 1.0  # seconds before the second attempt, doubled before each later one
TIMEOUT = 30  # seconds of silence after which a connection counts as dead
# HTTP answers after which trying again makes sense.
TEMPORARY = {408, 416, 425, 429, 500, 502, 503, 504}
LIMIT = 8 << 30  # bytes of a download or of what it unpacks to; Flickr8k has about 1.1 GB
_BLOCK = 1 << 16  # bytes


class _Interrupted(Exception):
    """The network failed in a way that another attempt may mend."""


def download(url: str, target: Path | str) -> Path:
    """Fetches `url`, an http or https address, into the file `target` and returns it.

    The bytes gather in `target.part`, where a later call goes on if the server still has the same
    file (RFC 9110: Range with If-Range) and has told its length. They become `target` in one step
    once they are whole; what should be a .zip must be one. A whole `target` is not asked for again.

    Raises:
        DownloadError: no network, no such address, wrong content, more than 8 GiB, or no room. What
            has come so far is kept unless its content is wrong; an older `target` stays as it was.
    """
    target = Path(target)
    is_zip = target.suffix.lower() == ".zip"
    if target.is_file() and (zipfile.is_zipfile(target) or not is_zip):
        return target
    if not re.fullmatch(r"https?://[^@/\[\]]+(/.*)?", url):  # not repeated: it may hold a password
        raise DownloadError(
            "That is not an address to download from; expected https://…, without a user name or "
            "password in it. Fetch the file with another program and place it by hand."
        )
    part, memo_file = (target.with_name(f"{target.name}{end}") for end in (".part", ".part.json"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_with_patience(url, part, memo_file)
        with part.open("rb") as whole:
            begins = whole.read(40)
            os.fsync(whole.fileno())
        if is_zip and not zipfile.is_zipfile(part):
            part.unlink()
            memo_file.unlink()
            finding = f"What {url} sent is no whole zip archive, it begins with {begins!r}"
            raise DownloadError(f"{finding}. Open the address in a browser to see what is there.")
        part.replace(target)
        memo_file.unlink()
    except DownloadError:
        raise
    except OSError as error:
        finding = f"{target} can't be written: {error.strerror or error}"
        remedy = f"What came so far is kept in {part.name}; make room and run this again."
        raise DownloadError(f"{finding}. {remedy}") from error
    return target


def _fetch_with_patience(url: str, part: Path, memo_file: Path) -> None:
    failures, longest = 0, _length(part)
    while True:
        try:
            return _fetch(url, part, memo_file)
        except _Interrupted as interruption:
            failures = 1 if _length(part) > longest else failures + 1
            longest = max(longest, _length(part))
            if failures == ATTEMPTS:
                raise DownloadError(
                    f"{url} could not be downloaded: {interruption} ({ATTEMPTS} attempts). "
                    f"{longest:,} bytes have come so far. Check the network and run this again."
                ) from interruption
            time.sleep(PAUSE * 2 ** (failures - 1))


def _fetch(url: str, part: Path, memo_file: Path) -> None:
    """Makes one request and writes what comes; returns only when the file is as long as announced.

    `memo_file` holds which version of the file the part belongs to: `url`, `validator` (ETag or
    Last-Modified, None if the server names neither) and `length` (None if not announced).
    """
    kinds = {"url": url, "validator": str, "length": lambda value: type(value) is int and value > 0}
    headers, offset, memo = {"Accept-Encoding": "identity"}, 0, {}
    # Without a known length there would be no telling when what is added has become too much.
    with suppress(CaptionProjectError):  # no memo, a torn one, or of another address
        memo = read_json(memo_file, fields=kinds)
        if (offset := _length(part)) == memo["length"]:
            return  # stopped after the last byte, before the file got its name
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": memo["validator"]}
    with _open(url, headers, part) as response:
        if response.status == 206:
            length = memo.get("length")
            asked_for = rf"bytes {offset}-\d+/{length}"
            piece = (response.headers["Content-Range"] or "").strip()
            if not (offset and re.fullmatch(asked_for, piece)):
                part.unlink(missing_ok=True)
                raise _Interrupted("the server sent another piece than was asked for")
        else:
            offset, length = 0, response.length
        room = min(LIMIT, offset + shutil.disk_usage(part.parent).free)
        if length is not None and length > room:
            finding = f"{url} has {length:,} bytes, and there is room for {room:,} in {part.parent}"
            raise DownloadError(f"{finding}. Make room and run this again.")
        if offset == 0:
            # In this order, so that a kill in between never leaves old bytes with a new memo.
            part.unlink(missing_ok=True)
            etag = response.headers.get("ETag", "W/")  # W/ marks one that need not be exact
            validator = response.headers["Last-Modified"] if etag.startswith("W/") else etag
            write_json(memo_file, {"url": url, "validator": validator, "length": length})
        written, most = offset, LIMIT if length is None else length
        bar = ProgressBar(desc=part.stem, total=length, initial=offset, unit="B", unit_scale=True)
        with bar, part.open("ab") as file:
            while written <= most and (block := _read(response)):
                written += file.write(block)
                bar.update(len(block))
    if written > most:
        part.unlink()
        raise DownloadError(f"{url} sent more than {most:,} bytes. Place the file by hand.")
    if length is not None and written != length:
        raise _Interrupted(f"the connection ended at byte {written:,} of {length:,}")


def _open(url: str, headers: dict[str, str], part: Path) -> HTTPResponse:
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the part is longer than the file: nothing to go on from
            part.unlink(missing_ok=True)
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in TEMPORARY:
            raise _Interrupted(answer) from error
        remedy = "Get it elsewhere and place it by hand."
        raise DownloadError(f"{url} could not be downloaded: {answer}. {remedy}") from error
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"no connection ({getattr(error, 'reason', error)})") from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, HTTPException) as error:
        raise _Interrupted(f"the connection broke ({error!r})") from error


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def unpack(archive: Path | str, folder: Path | str, *, limit: int = LIMIT) -> Path:
    """Unpacks a zip archive into a new or empty folder and returns that: all of it or nothing.

    Leaves out what macOS adds (`__MACOSX`, `.DS_Store`).

    Raises:
        DownloadError: the archive is damaged or encrypted, holds a path that leads out of `folder`,
            a link or more than `limit` bytes; or `folder` has something in it, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DownloadError(f"{folder} already has something in it; expected an empty folder.")
    # Hidden and with an ending of our own, so that it is nobody else's folder.
    part = folder.with_name(f".{folder.name}-{os.getpid()}.unpacking")
    try:
        for left in folder.parent.glob(f".{glob.escape(folder.name)}-*.unpacking"):
            shutil.rmtree(left)  # of a run that was killed
        part.mkdir(parents=True)
        with zipfile.ZipFile(archive) as opened:
            named = [(member, _safe_path(member)) for member in opened.infolist()]
            members = [(member, part / path) for member, path in named if path]
            if (total := sum(member.file_size for member, _ in members)) > limit:
                raise DownloadError(f"it unpacks to {total:,} bytes, more than {limit:,}")
            name = f"unpacking {archive.name}"
            with ProgressBar(desc=name, total=total, unit="B", unit_scale=True) as bar:
                for member, path in members:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as source, path.open("xb") as file:
                        while block := source.read(_BLOCK):
                            bar.update(file.write(block))
                            if file.tell() > member.file_size:  # its sizes are the sender's word
                                finding = f"{member.filename!r} has more bytes than it declares"
                                raise DownloadError(finding)
        if folder.exists():
            folder.rmdir()  # Windows doesn't rename onto an empty folder
        part.rename(folder)
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError) as error:
        # zipfile raises RuntimeError for a password and NotImplementedError for rare compressions
        reason = getattr(error, "strerror", None) or error
        remedy = "Make room if the disk is full; else delete the archive and fetch it again"
        if isinstance(error, DownloadError):  # found here: nobody makes such an archive by mistake
            remedy = "Delete it and get it from a source that you trust"
        finding = f"{archive} can't be unpacked: {reason}. Nothing was left in {folder}"
        raise DownloadError(f"{finding}. {remedy}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _safe_path(member: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a member goes, relative to the folder; None for folders and what macOS adds."""
    name = member.filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise DownloadError(f"it holds {member.filename!r}, a path that leads out of the folder")
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive wasn't made on Unix
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DownloadError(f"it holds {member.filename!r}, a link or device and not a file")
    if name.endswith("/") or not path.parts:
        return None
    return None if "__MACOSX" in path.parts or path.name == ".DS_Store" else path
