"""One checker per file. Each takes the recorded history of one simulation and yields a sentence for each violation."""
