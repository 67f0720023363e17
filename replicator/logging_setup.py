"""What the processes of a node write to stderr: lines of text, or JSON, one object a line."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Libraries whose less severe messages are never logged: at DEBUG, they write passwords, keys and data.
LEAST_LEVELS = {
    "aiokafka": logging.CRITICAL,  # its errors reach us as exceptions
    **dict.fromkeys(("aiobotocore", "botocore", "fsspec", "s3fs", "urllib3"), logging.WARNING),
}

logger = logging.getLogger(__name__)


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Of a node, and of the processes that it starts."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> LogSettings:
        """From the fields that `asdict` returns, as JSON has them."""
        return cls(LogLevel(fields["level"]), LogFormat(fields["format"]))


class JsonFormatter(logging.Formatter):
    """A message as one line, whatever it contains."""

    def __init__(self, cluster: str, node: str) -> None:
        super().__init__()
        self._origin = {"cluster": cluster, "node": node}

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._origin,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return json.dumps(fields)


def set_up(settings: LogSettings, cluster: str, node: str) -> None:
    """Configure the logging of this process. Call it before the first message is logged."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.format is LogFormat.JSON:
        handler.setFormatter(JsonFormatter(cluster, node))
        logging.captureWarnings(True)
        sys.excepthook = _log_exception
        threading.excepthook = _log_exception_of_thread
    else:
        handler.setFormatter(logging.Formatter(TEXT_FORMAT))
    level: int = getattr(logging, settings.level.upper())
    logging.basicConfig(level=level, handlers=[handler])
    for name, least in LEAST_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, least))


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback of many lines would not be JSON."""
    logger.critical("%s", error or kind.__name__, exc_info=(kind, error, trace))


def _log_exception_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        _log_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
