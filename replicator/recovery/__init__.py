"""The past of a cluster, from its log and its snapshots: the history of a key, and the state at an offset."""
