"""Lua scripts, as Redis has them: what compiles, keeps and runs them."""

from replicator.server.scripts.cache import Script, digest
from replicator.server.scripts.engine import ENGINE, Host, ScriptEnded, Scripts, has_plain_locale, out_of_memory

__all__ = ["ENGINE", "Host", "Script", "ScriptEnded", "Scripts", "digest", "has_plain_locale", "out_of_memory"]
