"""The files of a repository, each read and written whole: on fsspec, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import fsspec
from fsspec.implementations.local import LocalFileSystem

from replicator.errors import ConfigError, RepositoryUnavailable, SnapshotError
from replicator.store.durable import sync

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _failures() -> tuple[type[Exception], ...]:
    """What file systems raise. Those of S3 are not all `OSError`."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError, aiohttp.ClientError)


class Objects:
    """Files by path below a URL. For several threads at once."""

    def __init__(self, url: str) -> None:
        """Raises `ConfigError`."""
        self.url = shown_url(url)
        self._failures = _failures()
        options = {} if "://" not in url or url.startswith("file:") else {"use_listings_cache": False}
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
        except ImportError as error:
            raise ConfigError(
                f"repository {self.url} needs a package that is not installed ({error}); for S3: "
                "pip install 'replicator[s3]'"
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigError(f"invalid repository {self.url}: {error}") from None
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def read(self, path: str) -> bytes:
        """Raises `FileNotFoundError`, `RepositoryUnavailable`, `ConfigError`."""
        with self._translated(f"read {path}"):
            return bytes(self._fs.cat_file(self._at(path)))

    def write(self, path: str, data: bytes) -> None:
        """All of it or nothing. Raises `SnapshotError` (the disk is full), `RepositoryUnavailable`, `ConfigError`."""
        with self._translated(f"write {path}"):
            if self._is_local:
                self._write_local(Path(self._at(path)), data)
                return
            try:
                self._fs.pipe_file(self._at(path), data)
            except FileNotFoundError as error:
                raise ConfigError(f"repository {self.url} does not exist ({_text(error)}): create the bucket") from None

    def _write_local(self, file: Path, data: bytes) -> None:
        """Others may write the same file: each has a name of its own until it is complete."""
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{uuid.uuid4().hex}.new")
        try:
            new.write_bytes(data)
            sync(new)
            os.replace(new, file)
        finally:
            new.unlink(missing_ok=True)
        sync(file.parent)

    def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder, by name; none if it does not exist. Raises as `read`."""
        return {name: size for name, size in self._listed(folder).items() if size is not None}

    def folders(self) -> list[str]:
        """Those at the top. Raises as `read`."""
        return [name for name, size in self._listed("").items() if size is None]

    def modified_s(self, path: str) -> float:
        """Unix time. Raises as `read`."""
        with self._translated(f"read {path}"):
            moment: float = self._fs.modified(self._at(path)).timestamp()
            return moment

    def delete(self, path: str) -> None:
        """Also a folder with its files, and one that does not exist. Raises `RepositoryUnavailable`, `ConfigError`."""
        with self._translated(f"delete {path}"):
            try:
                self._fs.rm(self._at(path), recursive=True)
            except FileNotFoundError:
                return

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _listed(self, folder: str) -> dict[str, int | None]:
        """The sizes of files; None: a folder."""
        with self._translated(f"list {folder or 'snapshots'}"):
            try:
                found: list[dict[str, Any]] = self._fs.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {
            name: None if it["type"] == "directory" else it["size"]
            for it in found
            if (name := it["name"].rstrip("/").rpartition("/")[2])
        }

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise ConfigError(
                f"repository {self.url} refuses to {doing} ({_text(error)}): check its credentials and permissions"
            ) from None
        except OSError as error:
            if error.errno in _FULL:
                raise SnapshotError(
                    f"repository {self.url} is full ({_text(error)}): free some space, for example with "
                    "`replicator snapshot prune`"
                ) from None
            raise RepositoryUnavailable(f"repository {self.url} cannot {doing} now: {_text(error)}") from None
        except self._failures as error:
            if type(error).__name__ in _CREDENTIALS:
                raise ConfigError(
                    f"repository {self.url} has no valid credentials ({_text(error)}): set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                ) from None
            raise RepositoryUnavailable(f"repository {self.url} cannot {doing} now: {_text(error)}") from None


_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"}


def shown_url(url: str) -> str:
    """Without a password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
