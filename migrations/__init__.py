"""Migrations of the cache, shipped in the wheel as ``hubvram.migrations`` and applied on open."""
