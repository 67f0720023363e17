"""Snapshots beyond one machine: where they are kept, when they are taken, and which part of the log they replace.

repository.py    a folder or a bucket with snapshots, on fsspec
objects.py       its files: read and written whole
transfer.py      a copy of a store as compressed parts, and back
listing.py       the snapshots in it, which of them are verified, and which can be used
restoring.py     puts a snapshot into the folder of a store
source.py        the same for a node that rebuilds its store
verification.py  restores a snapshot elsewhere and compares it with its manifest and with the log
retention.py     decides when a snapshot is due, and which ones may be deleted
service.py       what a node does: takes snapshots, and as a snapshotter verifies and deletes them, and trims the log
jobs.py          taking and verifying, each in a process of its own
worker.py        that process
"""
