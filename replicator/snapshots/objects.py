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

import fsspec
from fsspec.implementations.local import LocalFileSystem

from replicator.errors import ConfigError, ReplicatorError, RepositoryUnavailable, SnapshotError
from replicator.store.durable import sync

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# names of errors of botocore
_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"}
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
_S3 = {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 3}}


class Objects:
    """Files by path below a URL. For several threads at once."""

    def __init__(self, url: str) -> None:
        """Raises `ConfigError`, `RepositoryUnavailable`."""
        self.url = shown_url(url)
        _check(url, self.url)
        options: dict[str, Any] = {"use_listings_cache": False} if "://" in url and not url.startswith("file:") else {}
        if url.startswith("s3:"):
            options["config_kwargs"] = _S3
        if url.startswith("memory:"):
            raise ConfigError(f"repository {self.url} would be lost with this process: name a folder, or s3://…")
        with self._translated("be opened"):  # some connect at once
            try:
                self._fs, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)
            except ImportError as error:
                raise ConfigError(
                    f"repository {self.url} needs a package that is not installed ({error}); for S3: "
                    "pip install 'replicator[s3]'"
                ) from None
            except (ValueError, TypeError, FileNotFoundError) as error:
                raise ConfigError(f"invalid repository {self.url}: {error}") from None
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def check_exists(self) -> None:
        """The folder, or the bucket: a prefix in it need not exist. Raises `ConfigError`, `RepositoryUnavailable`."""
        is_bucket = not self._protocols.isdisjoint(_BUCKETS)
        with self._translated("be read"):
            try:
                found = self._fs.info(self._root.split("/")[0] if is_bucket else self._root)
            except FileNotFoundError:
                remedy = "create the bucket" if is_bucket else "take a snapshot there first"
                raise ConfigError(f"repository {self.url} does not exist: correct its name, or {remedy}") from None
            except PermissionError:
                if is_bucket:  # to read what is below a prefix, this right is not needed
                    return
                raise
        if self._is_local and found["type"] != "directory":
            raise ConfigError(f"repository {self.url} is not a folder: correct its name")

    @property
    def _protocols(self) -> set[str]:
        protocol: str | tuple[str, ...] = self._fs.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    def read(self, path: str, max_bytes: int) -> bytes:
        """The beginning, if it is longer. Raises `FileNotFoundError`, `RepositoryUnavailable`, `ConfigError`."""
        with self._translated(f"read {path}"):
            at = self._at(path)
            is_small = self._fs.info(at)["size"] <= max_bytes  # S3 has no range of an empty file
            return bytes(self._fs.cat_file(at) if is_small else self._fs.cat_file(at, start=0, end=max_bytes))

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
        except (FileNotFoundError, ReplicatorError):
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
        except Exception as error:
            if type(error).__name__ in _CREDENTIALS:
                raise ConfigError(
                    f"repository {self.url} has no valid credentials ({_text(error)}): set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                ) from None
            # each file system has errors of its own
            raise RepositoryUnavailable(f"repository {self.url} cannot {doing} now: {_text(error)}") from error


def _check(url: str, shown: str) -> None:
    """Raises `ConfigError` if it names another place than was meant."""
    if not url.strip():
        raise ConfigError("invalid repository '': expected a folder, or s3://bucket/prefix")
    scheme, colon, rest = url.partition(":")
    if colon and scheme in fsspec.available_protocols() and scheme != "file" and not rest.startswith("//"):
        raise ConfigError(f"invalid repository {shown}: expected {scheme}://…")
    if scheme in _BUCKETS and not urlsplit(url).netloc:
        raise ConfigError(f"invalid repository {shown}: expected {scheme}://bucket/prefix")


def shown_url(url: str) -> str:
    """Without a password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
