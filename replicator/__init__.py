"""A replicated store whose only truth is a Kafka log."""

__version__ = "0.1.0"
