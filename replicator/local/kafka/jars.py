"""Where Kafka's jars come from: a folder with `libs/*.jar`, as in Kafka's own distribution.

The user names one (`--kafka-home`), or `jgo` downloads the jars into the cache once.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from replicator.errors import BrokerUnavailable, ConfigError
from replicator.local.kafka.paths import cache_dir

KAFKA_VERSION = "4.3.1"
# `!` keeps jgo from taking a library's own build settings for version rules: Kafka gets the versions it was built with.
# log4j is pinned because "newest" may be a beta of another major version.
KAFKA_ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}!+org.apache.logging.log4j:log4j-slf4j-impl:2.25.3!"

Fetch = Callable[[str], Iterable[Path]]


def fetch_with_jgo(endpoint: str) -> list[Path]:
    """Resolve Maven coordinates to jar files in the local Maven repository, downloading what is missing.

    Raises `ConfigError` (no jgo), `OSError` or `RuntimeError` (cannot be fetched).
    """
    try:
        import jgo
    except ImportError:
        raise ConfigError(
            "Apache Kafka must be downloaded once, and jgo, which downloads it, is not installed: "
            '`pip install "replicator[broker]"`'
        ) from None
    return [artifact.resolve() for artifact in jgo.resolve(endpoint)]


def kafka_home(named: Path | None = None, fetch: Fetch = fetch_with_jgo) -> Path:
    """A folder with Kafka's jars in `libs`: the `named` one, or the cached one, which is filled at the first call.

    Raises `ConfigError` (no Kafka in the named folder, jgo is not installed), `BrokerUnavailable` (nothing is cached,
    and the download fails).
    """
    if named is not None:
        kafka_version(named)
        return named.absolute()
    home = cache_dir() / f"kafka-{KAFKA_VERSION}"
    if not home.is_dir():
        _fill(home, fetch)
    return home


def kafka_version(home: Path) -> str:
    """Raises `ConfigError` if the folder does not contain Kafka."""
    for jar in home.glob("libs/kafka_*.jar"):
        found = re.fullmatch(r"kafka_[\d.]+-(\d[\w.]*)\.jar", jar.name)
        if found:
            return found.group(1)
    raise ConfigError(f"{home} is not an Apache Kafka: it contains no libs/kafka_*.jar")


def _fill(home: Path, fetch: Fetch) -> None:
    """The folder is renamed last, so that an interrupted download leaves no incomplete one.

    One download at a time: concurrent ones damage each other's files in the local Maven repository.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.parent), tempfile.TemporaryDirectory(prefix="kafka-", dir=home.parent) as staging:
            if home.is_dir():
                return
            libs = Path(staging) / "home" / "libs"
            libs.mkdir(parents=True)
            for jar in fetch(KAFKA_ENDPOINT):
                if not zipfile.is_zipfile(jar):
                    raise RuntimeError(f"{jar} is damaged: delete it and start again")
                shutil.copy(jar, libs)
            os.rename(libs.parent, home)
    except (OSError, RuntimeError) as error:
        raise BrokerUnavailable(_three_ways(home, error)) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _three_ways(home: Path, error: Exception) -> str:
    return f"""\
Apache Kafka {KAFKA_VERSION} is not in the cache ({home}) and cannot be downloaded ({type(error).__name__}: {error}).
There are three ways to get a broker:
  1. replicator broker start                     with network access once; later starts need none
  2. replicator broker start --kafka-home DIR    with an unpacked Apache Kafka distribution (4.0 or newer)
  3. --bootstrap HOST:PORT                       with any running Kafka, for instance in a container"""
