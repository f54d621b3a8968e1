"""Where snapshots come from: the Hub and local folders."""
