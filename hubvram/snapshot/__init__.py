"""Snapshot: config + tensor headers of a repo at one commit, and how headers are parsed."""
