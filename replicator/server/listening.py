"""The error of a server that cannot listen at its address."""

from __future__ import annotations

import errno

from replicator.address import Address
from replicator.errors import ConfigError

_REASONS = {
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "the address is not one of this machine",
    errno.EACCES: "permission denied",
}


def cannot_listen(address: Address, error: OSError, *, option: str) -> ConfigError:
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
    return ConfigError(f"cannot listen at {address}: {reason}. Choose another with {option}")
