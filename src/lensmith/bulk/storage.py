"""Files on this machine and in object stores, behind one interface: read, list, and write atomically.

An object store shows an object when its upload is complete, and a local file gets its name when it is complete. So
whatever has its name is whole. Credentials come from the environment, as each store's own client reads them.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lensmith.data.paths import walk_folders
from lensmith.errors import UserError, limit_of_system, reason

T = TypeVar("T")
WAIT = 300.0
"""Seconds to wait for a storage that doesn't respond."""
PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long, up to 15 s."""
_BLOCK = 8 << 20
REMOTE = re.compile(r"(s3|gs|gcs|az|abfs|abfss|hf)://", re.IGNORECASE)
_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|Expired|InvalidToken|INVALID_CLIENT_TOKEN|INVALID_ACCESS_KEY|InvalidAccessKeyId|"
    r"SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|UNRECOGNIZED_CLIENT|NoCredentials|credential|Unauthorized|"
    r"PERMISSION_DENIED|HTTP Status: 40[13]|HTTP status code 40[13]|error code: 40[13]|AuthenticationFailed",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"AWS Error|curl|Connect|time.?out|timed.?out|HTTP|network|google::cloud|Rest::|Azure|UNAVAILABLE|reset|refused",
    re.IGNORECASE,
)
_OF_DRIVES = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ENOTCONN, errno.EHOSTDOWN}
"""Errors of a network drive that may pass."""
_UNKNOWN = re.compile(
    r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound|bucket (was not found|does not exist)", re.IGNORECASE
)


def is_remote(address: str) -> bool:
    """Whether an address is one of an object store."""
    return bool(REMOTE.match(address))


def whole(address: str) -> str:
    """An address as it is understood in any working directory; paths become absolute."""
    return address if is_remote(address) or address.startswith("hub:") else filesystem(address)[1]


def join(address: str, name: str) -> str:
    """The address of a file in a folder."""
    return f"{address.rstrip('/')}/{name}"


class Denied(UserError):
    """A storage refuses this process: wrong, missing or expired credentials. Trying again doesn't help."""


class _Incomplete(OSError):
    """A file that was written isn't there as a whole."""


class Storage:
    """A folder on this machine or in an object store.

    Args:
        address: a path, or `s3://BUCKET/...`, `gs://BUCKET/...`, `az://CONTAINER/...`.
        wait: seconds to wait for a storage that doesn't respond, before giving up.

    Raises:
        UserError: the address can't be understood.
    """

    def __init__(self, address: str, wait: float = WAIT) -> None:
        self.address, self.wait = address, wait
        self.files, self.root = filesystem(address)
        self.local = not is_remote(address)

    def path(self, name: str) -> str:
        """The path of a file within its file system."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
            UserError: the storage refuses, or doesn't respond.
        """

        def action() -> bytes:
            with self.files.open_input_stream(self.path(name)) as stream:
                return bytes(stream.read())

        return self._patiently(action, name)

    def open(self, name: str) -> Any:
        """A file for random access (`pyarrow.NativeFile`); raises as `read`."""
        return self._patiently(lambda: self.files.open_input_file(self.path(name)), name)

    def stream(self, name: str) -> Any:
        """A file to be read from its beginning to its end (`pyarrow.NativeFile`), 8 MB at a time; raises as `read`."""
        return self._patiently(
            lambda: self.files.open_input_stream(self.path(name), compression=None, buffer_size=_BLOCK), name
        )

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, and make sure that it is there.

        Raises:
            UserError: the disk is full, or the storage refuses or doesn't respond.
        """
        if self.local:
            return self._patiently(lambda: _write_locally(Path(self.path(name)), content), name)

        def action() -> None:
            with self.files.open_output_stream(self.path(name)) as stream:
                stream.write(content)
            size = self.files.get_file_info(self.path(name)).size
            if size != len(content):  # it was acknowledged, but isn't there
                raise _Incomplete(f"{self.path(name)} has {size or 0} bytes instead of {len(content)}")

        return self._patiently(action, name)

    def put(self, name: str, file: Path) -> None:
        """Copy a local file of any size here; otherwise as `write`."""

        def action() -> None:
            inner = self.path(name)
            if self.local:
                Path(inner).parent.mkdir(parents=True, exist_ok=True)
                inner = os.path.join(os.path.dirname(inner), f".{os.path.basename(inner)}.{os.getpid()}.part")
            with file.open("rb") as source, self.files.open_output_stream(inner) as target:
                while block := source.read(_BLOCK):
                    target.write(block)
            if (size := self.files.get_file_info(inner).size) != file.stat().st_size:
                raise _Incomplete(f"{self.path(name)} has {size or 0} bytes instead of {file.stat().st_size}")
            if self.local:
                os.replace(inner, self.path(name))

        self._patiently(action, name)

    def get(self, name: str, file: Path) -> None:
        """Copy a file of any size to a local one; raises as `read`."""

        def action() -> None:
            with self.files.open_input_stream(self.path(name), compression=None) as source, file.open("wb") as target:
                while block := source.read(_BLOCK):
                    target.write(block)

        self._patiently(action, name)

    def sizes(self, name: str = "") -> dict[str, int]:
        """The files in a folder by name, with their sizes in bytes; empty if there is no such folder."""
        from pyarrow.fs import FileSelector, FileType

        def action() -> dict[str, int]:
            if self.local:  # pyarrow only has names in UTF-8
                return _sizes_locally(self.path(name))
            found = self.files.get_file_info(FileSelector(self.path(name), allow_not_found=True))
            return {info.base_name: info.size for info in found if info.type == FileType.File}

        return self._patiently(action, name)

    def some(self, most: int = 1000) -> list[str]:
        """The names of some files in the folder, to tell what kind of files it has; empty if there is no folder."""
        if not self.local:
            return list(self.sizes())[:most]
        try:
            with os.scandir(self.root) as entries:
                return [entry.name for entry in islice(entries, most) if entry.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""
        from pyarrow.fs import FileType

        if self.local:
            return os.path.exists(self.path(name))
        return bool(self._patiently(lambda: self.files.get_file_info(self.path(name)).type != FileType.NotFound, name))

    def is_file(self) -> bool:
        """Whether the address is that of a file."""
        from pyarrow.fs import FileType

        if self.local:
            return os.path.isfile(self.root)
        return bool(self._patiently(lambda: self.files.get_file_info(self.root).type == FileType.File, ""))

    def walk(self) -> Iterator[tuple[str, int]]:
        """The addresses of all files below, folder by folder, with their sizes; hidden ones are left out.

        Only one folder at a time is in memory. The size of a local file isn't looked up: it is 0.
        """
        from pyarrow.fs import FileSelector, FileType

        if self.local:
            for folder, inner, names in walk_folders(Path(self.root)):
                if not any(word.startswith(".") for word in inner):
                    yield from ((os.path.join(folder, name), 0) for name in names if not name.startswith("."))
            return
        scheme = self.address.partition("://")[0]
        folders = [self.root]
        while folders:
            selected = FileSelector(folders.pop())
            found: list[Any] = self._patiently(partial(self.files.get_file_info, selected), "")
            found.sort(key=lambda info: info.base_name)
            visible = [info for info in found if not info.base_name.startswith(".")]
            folders += [info.path for info in reversed(visible) if info.type == FileType.Directory]
            yield from ((f"{scheme}://{info.path}", info.size) for info in visible if info.type == FileType.File)

    def _patiently(self, action: Callable[[], T], name: str) -> T:
        return patiently(action, join(self.address, name) if name else self.address, self.wait)


def patiently(action: Callable[[], T], where: str, wait: float = WAIT) -> T:
    """The result of an action on a storage, tried again while the storage doesn't respond.

    Raises:
        FileNotFoundError: there is no such file.
        Denied: the storage refuses.
        UserError: the machine refuses, or the storage hasn't responded for `wait` seconds.
        OSError: anything else, such as a damaged table.
    """
    began, pause = time.monotonic(), PAUSE
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            told = " ".join(str(error).split())
            if _DENIED.search(told):
                raise Denied(
                    f"The storage refuses access to {where}: {reason(error)}.",
                    "Check the credentials in the environment, and run the same command again: what is done is kept.",
                ) from None
            if _UNKNOWN.search(told):
                raise UserError(f"There is no such storage: {where}.", "Check the name of its bucket.") from None
            if not _may_pass(error, told):
                raise (limit_of_system(error) or error) from None
            if time.monotonic() - began + pause > wait:
                what, hint = f"The storage of {where} doesn't respond", "Check it, and run"
                if isinstance(error, _Incomplete):
                    what = f"The storage of {where} doesn't keep what is written to it"
                    hint = "If it is an older S3 server, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required. Then run"
                raise UserError(
                    f"{what}: {reason(error)}.", f"{hint} the same command again: what is done is kept."
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


def _may_pass(error: OSError, told: str) -> bool:
    if isinstance(error, _Incomplete | ConnectionError | TimeoutError) or error.errno in _OF_DRIVES:
        return True
    return error.errno is None and bool(_TRANSIENT.search(told))


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address (`pyarrow.fs.FileSystem`), and the path in it, without a slash at its end.

    Raises:
        UserError: a part of the address is missing, or a setting of the environment.
    """
    if not is_remote(address):
        if re.match(r"[a-z][a-z0-9+]+://", address):
            scheme = address.partition("://")[0]
            raise UserError(f"Lensmith can't read {scheme}:// addresses.", "Known are s3://, gs:// and az://.")
        return _made("file"), os.path.abspath(os.path.expanduser(address))
    scheme, _, path = address.partition("://")
    path = path.strip("/")
    if not path:
        raise UserError(f"The address {address} names no bucket.", f"Write it as {scheme}://BUCKET/FOLDER.")
    kind = {"gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme.lower(), scheme.lower())
    return _made(kind), path


@cache
def _made(kind: str) -> Any:
    """The file system of a kind, made once a process, since each has its connections."""
    from pyarrow import fs

    if kind == "file":
        return fs.LocalFileSystem()
    if kind == "s3":
        return fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            connect_timeout=10,
            request_timeout=60,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
            allow_delayed_open=True,  # one request for a small file instead of three
        )
    if kind == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=60))
    if kind == "az":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT")
        if not account:
            raise UserError("The storage account of az:// isn't known.", "Set AZURE_STORAGE_ACCOUNT.")
        return fs.AzureFileSystem(
            account,
            account_key=os.environ.get("AZURE_STORAGE_KEY"),
            sas_token=os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
        )
    from huggingface_hub import HfFileSystem

    return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem()))


def _sizes_locally(folder: str) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _write_locally(path: Path, content: bytes) -> None:
    """As `runs.files.write`, but with a temporary name of its own, since two workers may write one shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
