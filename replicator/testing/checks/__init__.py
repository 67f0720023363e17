"""One checker a file: each takes what was seen of one history and yields sentences that say what is wrong with it."""
