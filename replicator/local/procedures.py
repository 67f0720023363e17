"""The procedures of a cluster, as its nodes report them (`REPL.PROCEDURES`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from replicator.address import Address
from replicator.local.admin_client import NodeUnreachable
from replicator.local.resp_connection import CommandFailed, RespConnection
from replicator.local.status import FAILED, REPLACED, MemberStatus
from replicator.procedures.loading import Procedures

TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class ProcedureStates:
    """Its fields are those of the JSON."""

    name: str
    hash: str
    nodes: Mapping[str, str]  # state by node: ready, new, missing or changed


def list_procedures(nodes: Mapping[str, Address], password: str) -> tuple[list[ProcedureStates], dict[str, str]]:
    """The procedures in the order of their names, and the nodes that do not answer, with their errors.

    `nodes`: their Redis ports. Raises `NodeUnreachable` if no node answers.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    failures = {}
    for id, address in nodes.items():
        try:
            with RespConnection(address, password, TIMEOUT_S) as connection:
                rows = connection.execute("REPL.READ", "eventual", "REPL.PROCEDURES")
        except (OSError, CommandFailed) as error:
            failures[id] = str(error)
            continue
        for name, hash, state in rows:
            found.setdefault((name.decode(), hash.decode()), {})[id] = state.decode()
    if len(failures) == len(nodes):
        reasons = "; ".join(f"{id}: {error}" for id, error in failures.items())
        raise NodeUnreachable(f"no node answers ({reasons}): check that one is running")
    return [ProcedureStates(name, hash, states) for (name, hash), states in sorted(found.items())], failures


def explained(failures: Mapping[str, str], statuses: Sequence[MemberStatus]) -> list[str]:
    """A line for each node that does not answer (`list_procedures`), with its state if it has failed."""
    states = {it.node.id: it.node for it in statuses if it.node.state in (FAILED, REPLACED)}
    return [
        f"{id} is {states[id].state} ({states[id].trouble})" if id in states else f"{id} does not answer ({error})"
        for id, error in failures.items()
    ]


def nodes_without(procedures: Procedures, nodes: Mapping[str, Address], password: str) -> list[str]:
    """The nodes that have not loaded all of these procedures, or do not answer. `nodes`: their Redis ports."""
    try:
        found, _ = list_procedures(nodes, password)
    except NodeUnreachable:
        return list(nodes)
    states = {(it.name, it.hash): it.nodes for it in found}
    loaded = [states.get((it.name, it.hash), {}) for it in procedures.values()]
    return [id for id in nodes if any(it.get(id) not in ("ready", "new") for it in loaded)]
