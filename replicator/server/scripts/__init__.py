"""Lua scripts, as Redis has them: what compiles, keeps and runs them."""

from replicator.server.scripts.cache import Script
from replicator.server.scripts.engine import Host, ScriptEnded, Scripts, out_of_memory

__all__ = ["Host", "Script", "ScriptEnded", "Scripts", "out_of_memory"]
