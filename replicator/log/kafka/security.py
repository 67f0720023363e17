"""Security settings of the connection to Kafka, for both client libraries. No `repr` or message contains a secret."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from replicator.config import KafkaSection
from replicator.errors import ConfigError

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True)
class KafkaSecurity:
    """Protocol, TLS files (PEM) and SASL login. Raises `ConfigError` if they are inconsistent."""

    security_protocol: str = "PLAINTEXT"
    cafile: str | None = None  # default: the trust store of the system
    certfile: str | None = None
    keyfile: str | None = None
    sasl_mechanism: str = "PLAIN"
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.security_protocol not in PROTOCOLS:
            raise ConfigError(_invalid("security_protocol", self.security_protocol, PROTOCOLS))
        if self.sasl and self.sasl_mechanism not in MECHANISMS:
            raise ConfigError(_invalid("sasl_mechanism", self.sasl_mechanism, MECHANISMS))
        if self.sasl and not (self.username and self.password):
            raise ConfigError(f"{self.security_protocol} needs a login: set kafka.username and kafka.password")
        if self.keyfile and not self.certfile:
            raise ConfigError("kafka.keyfile is set without kafka.certfile: set both, or neither")
        if not self.tls and (self.cafile or self.certfile):
            raise ConfigError(
                f"{self.security_protocol} does not use TLS: remove kafka.cafile and kafka.certfile, or set "
                "kafka.security_protocol to SSL or SASL_SSL"
            )

    @property
    def sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    def for_aiokafka(self) -> dict[str, Any]:
        """Keyword arguments of `AIOKafkaClient`. Raises `ConfigError` if a file cannot be used."""
        settings: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.tls:
            settings["ssl_context"] = self._ssl_context()
        if self.sasl:
            settings["sasl_mechanism"] = self.sasl_mechanism
            settings["sasl_plain_username"] = self.username
            settings["sasl_plain_password"] = self.password
        return settings

    def for_librdkafka(self) -> dict[str, str]:
        """Settings of a confluent-kafka client."""
        settings = {"security.protocol": self.security_protocol}
        if self.sasl:
            settings["sasl.mechanism"] = self.sasl_mechanism
        optional = {
            "ssl.ca.location": self.cafile,
            "ssl.certificate.location": self.certfile,
            "ssl.key.location": self.keyfile or self.certfile,
            "sasl.username": self.username if self.sasl else None,
            "sasl.password": self.password if self.sasl else None,
        }
        return settings | {name: value for name, value in optional.items() if value}

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.cafile)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"TLS cannot be used with kafka.cafile {self.cafile}, kafka.certfile {self.certfile} and kafka.keyfile "
                f"{self.keyfile}: {error}"
            ) from error
        return context


def _invalid(setting: str, value: str, expected: Sequence[str]) -> str:
    return f"invalid kafka.{setting} {value!r}: expected one of {', '.join(expected)}"


PLAINTEXT = KafkaSecurity()


def security_of(kafka: KafkaSection) -> KafkaSecurity:
    """Raises `ConfigError` if the settings are inconsistent."""
    return KafkaSecurity(
        security_protocol=kafka.security_protocol,
        cafile=kafka.cafile or None,
        certfile=kafka.certfile or None,
        keyfile=kafka.keyfile or None,
        sasl_mechanism=kafka.sasl_mechanism,
        username=kafka.username or None,
        password=kafka.password or None,
    )
