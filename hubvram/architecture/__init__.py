"""Architecture: the config of every family of models as one typed record."""
