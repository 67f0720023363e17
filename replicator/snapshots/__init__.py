"""Snapshots beyond one machine: where they are kept, when they are taken, and which part of the log they replace.

repository.py    a folder or a bucket with snapshots, on fsspec
objects.py       its files: read and written whole
transfer.py      a copy of a store as compressed parts, and back
verification.py  restores a snapshot elsewhere and compares it with its manifest and with the log
"""
