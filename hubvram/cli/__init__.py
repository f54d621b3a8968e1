"""The command line. Commands parse and print; what they do is in `hubvram.api`."""
