"""A real Kafka with a listener of which a test sets the security, next to one that only this machine uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from replicator.address import Address
from replicator.local.kafka import LocalBroker, settings
from replicator.local.kafka.broker import new_cluster_id
from replicator.local.kafka.settings import BrokerLayout, Listener
from replicator.local.ports import random_free_ports

SECURED = "SECURED"
_genuine_properties = settings.server_properties


@dataclass(frozen=True)
class SecuredKafka:
    broker: LocalBroker
    plain: str  # its address without TLS and login
    secured: str
    cafile: Path


def start_secured_kafka(folder: Path, settings_of_listener: str) -> SecuredKafka:
    """The listener SECURED is SASL_SSL. `settings_of_listener`: lines for `server.properties`."""
    cafile = _write_certificates(folder)

    def properties(layout: BrokerLayout, data_folder: str = settings.DATA_FOLDER) -> str:
        genuine = _genuine_properties(layout, data_folder).replace(f"{SECURED}:PLAINTEXT", f"{SECURED}:SASL_SSL")
        return f"{genuine}\nssl.keystore.type=PEM\nssl.keystore.location=broker.pem\n{settings_of_listener}\n"

    plain, port, controller = random_free_ports(3)
    plain_address, secured_address = Address("127.0.0.1", plain), Address("127.0.0.1", port)
    listeners = (Listener("BROKER", plain, plain_address), Listener(SECURED, port, secured_address))
    layout = BrokerLayout(1, listeners, controller, {1: Address("127.0.0.1", controller)}, new_cluster_id())
    broker = LocalBroker(folder, layout=layout)
    with patch.object(settings, "server_properties", properties):
        broker.start()
    return SecuredKafka(broker, str(plain_address), str(secured_address), cafile)


def _write_certificates(folder: Path) -> Path:
    """`broker.pem`, and the certificate of its authority, which is returned."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pems = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]  # Kafka reads no other format
    pems.extend(pem.bytes() for pem in certificate.cert_chain_pems)
    (folder / "broker.pem").write_bytes(b"".join(pems))
    return folder / "ca.pem"
