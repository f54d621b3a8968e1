"""Report: the typed result, and one module per output format."""
