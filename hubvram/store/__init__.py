"""The cache: SQLite through SQLAlchemy, migrated on open, with views that people query.

`hubvram.store.location` says where it is (light), `hubvram.store.store` opens,
reads and writes it, `hubvram.store.query` runs people's SQL on it.
"""
