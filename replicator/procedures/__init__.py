"""Procedures: functions in Python that run inside of a transaction, at the leader and again at replicas.

A file of procedures imports `procedure` and `CommandError` from here. docs/procedures.md describes what it may contain.
"""

from replicator.procedures.declaration import CommandError, Procedure, Transaction, procedure

__all__ = ["CommandError", "Procedure", "Transaction", "procedure"]
