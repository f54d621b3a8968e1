"""One module per command. Each exports its click command under the command's own name."""
