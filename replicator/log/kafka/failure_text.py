"""Why a connection to a broker failed, in words."""

from __future__ import annotations

import os
import socket


def describe_failure(error: Exception, timeout_ms: int) -> str:
    """Such as: connection refused."""
    if not isinstance(error, OSError):  # an error of aiokafka, whose text begins with its class
        text = str(error).removeprefix(f"{type(error).__name__}: ")
    elif error.errno and not isinstance(error, socket.gaierror):
        text = os.strerror(error.errno)  # asyncio's own text repeats the address
    else:
        text = error.strerror or str(error)
    return text[:1].lower() + text[1:] or f"no answer within {timeout_ms} ms"
