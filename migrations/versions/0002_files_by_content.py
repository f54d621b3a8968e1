"""An index on the content hashes of files: what one commit or repo has read serves others with the same files."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix__files_content_hash", "_files", ["content_hash"])
