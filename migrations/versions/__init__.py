"""The migrations, one a file, numbered; never changed once released."""
