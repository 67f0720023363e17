"""A simulator: a whole cluster in one process, in virtual time, with injected faults. The seed determines the run."""
