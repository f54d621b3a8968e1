"""The first schema: blobs, models and what hangs below them, refs, errors, scans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _integers(table: str, *columns: str) -> sa.CheckConstraint:
    """SQLite takes anything in an integer column unless it is told not to."""
    test = " AND ".join(f"typeof({c}) IN ('integer', 'null')" for c in columns)
    return sa.CheckConstraint(test, name=op.f(f"ck_{table}_integers")).ddl_if(dialect="sqlite")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "_blobs",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="pk__blobs"),
        _integers("_blobs", "size"),
    )
    op.create_table(
        "_scans",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("started_at", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("ok", sa.BigInteger(), nullable=True),
        sa.Column("failed", sa.BigInteger(), nullable=True),
        sa.Column("settings", sa.Text(), nullable=True),
        sa.Column("hubvram_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk__scans"),
        _integers("_scans", "total", "ok", "failed"),
        sa.CheckConstraint("status IN ('running', 'finished', 'interrupted')", name=op.f("ck__scans_status")),
    )
    op.create_table(
        "_errors",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("repo_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=True),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("first_seen_at", sa.Text(), nullable=False),
        sa.Column("last_seen_at", sa.Text(), nullable=False),
        sa.Column("scan_id", ROW_ID, nullable=True),
        sa.Column("hubvram_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "repo_id", "revision", name="pk__errors"),
        _integers("_errors", "times", "scan_id"),
        sa.ForeignKeyConstraint(["scan_id"], ["_scans.id"], name="fk__errors_scan_id", ondelete="SET NULL"),
    )
    op.create_table(
        "_models",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("repo_id", sa.Text(), nullable=False),
        sa.Column("commit_sha", sa.Text(), nullable=False),
        sa.Column("is_newest", sa.Boolean(), nullable=False),
        sa.Column("author", sa.Text(), nullable=True),
        sa.Column("model_type", sa.Text(), nullable=True),
        sa.Column("architecture", sa.Text(), nullable=True),
        sa.Column("family", sa.Text(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("logical_parameters", sa.BigInteger(), nullable=False),
        sa.Column("logical_note", sa.Text(), nullable=True),
        sa.Column("dtype", sa.Text(), nullable=True),
        sa.Column("tensor_count", sa.BigInteger(), nullable=False),
        sa.Column("max_seq_len", sa.BigInteger(), nullable=True),
        sa.Column("gated", sa.Text(), nullable=True),
        sa.Column("library_name", sa.Text(), nullable=True),
        sa.Column("pipeline_tag", sa.Text(), nullable=True),
        sa.Column("fetched_at", sa.Text(), nullable=False),
        sa.Column("hub_version", sa.Text(), nullable=True),
        sa.Column("hubvram_version", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("warnings", sa.Text(), nullable=False),
        sa.Column("description_warnings", sa.Text(), nullable=False),
        sa.Column("blob_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk__models"),
        _integers(
            "_models", "is_newest", "parameters", "stored_bytes", "logical_parameters", "tensor_count", "max_seq_len"
        ),
        sa.ForeignKeyConstraint(["blob_hash"], ["_blobs.hash"], name="fk__models_blob_hash"),
        sa.UniqueConstraint("endpoint", "repo_id", "commit_sha", name="uq__models_endpoint_repo_id_commit_sha"),
    )
    op.create_index("ix__models_blob_hash", "_models", ["blob_hash"])
    op.create_table(
        "_files",
        sa.Column("model_id", ROW_ID, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("header_bytes", sa.BigInteger(), nullable=True),
        sa.Column("content_hash", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("model_id", "position", name="pk__files"),
        _integers("_files", "size", "header_bytes"),
        sa.ForeignKeyConstraint(["model_id"], ["_models.id"], name="fk__files_model_id", ondelete="CASCADE"),
        sa.UniqueConstraint("model_id", "path", name="uq__files_model_id_path"),
    )
    op.create_table(
        "_parameters",
        sa.Column("model_id", ROW_ID, nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("model_id", "dtype", name="pk__parameters"),
        _integers("_parameters", "count", "bytes"),
        sa.ForeignKeyConstraint(["model_id"], ["_models.id"], name="fk__parameters_model_id", ondelete="CASCADE"),
    )
    op.create_table(
        "_refs",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("repo_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("model_id", ROW_ID, nullable=False),
        sa.Column("checked_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "repo_id", "revision", name="pk__refs"),
        _integers("_refs", "model_id"),
        sa.ForeignKeyConstraint(["model_id"], ["_models.id"], name="fk__refs_model_id", ondelete="CASCADE"),
    )
    op.create_index("ix__refs_model_id", "_refs", ["model_id"])
    op.create_table(
        "_runs",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("model_id", ROW_ID, nullable=False),
        sa.Column("settings_key", sa.Text(), nullable=False),
        sa.Column("formula_version", sa.BigInteger(), nullable=False),
        sa.Column("is_newest", sa.Boolean(), nullable=False),
        sa.Column("batch_size", sa.BigInteger(), nullable=True),
        sa.Column("seq_len", sa.BigInteger(), nullable=True),
        sa.Column("source_len", sa.BigInteger(), nullable=True),
        sa.Column("dtype", sa.Text(), nullable=True),
        sa.Column("mixed_precision", sa.Text(), nullable=True),
        sa.Column("optim", sa.Text(), nullable=True),
        sa.Column("gradient_checkpointing", sa.Boolean(), nullable=True),
        sa.Column("attn_implementation", sa.Text(), nullable=True),
        sa.Column("padding", sa.Boolean(), nullable=True),
        sa.Column("max_grad_norm", sa.Double(), nullable=True),
        sa.Column("gradient_accumulation_steps", sa.BigInteger(), nullable=True),
        sa.Column("use_liger_kernel", sa.Boolean(), nullable=True),
        sa.Column("num_gpus", sa.BigInteger(), nullable=True),
        sa.Column("strategy", sa.Text(), nullable=True),
        sa.Column("offload", sa.Text(), nullable=True),
        sa.Column("image_tokens", sa.BigInteger(), nullable=True),
        sa.Column("keep_outputs", sa.Boolean(), nullable=True),
        sa.Column("peft", sa.Text(), nullable=False),
        sa.Column("quantization", sa.Text(), nullable=False),
        sa.Column("stack", sa.Text(), nullable=False),
        sa.Column("asked_settings", sa.Text(), nullable=False),
        sa.Column("applied_settings", sa.Text(), nullable=False),
        sa.Column("warnings", sa.Text(), nullable=False),
        sa.Column("estimated_at", sa.Text(), nullable=False),
        sa.Column("hubvram_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk__runs"),
        _integers(
            "_runs",
            "model_id",
            "formula_version",
            "is_newest",
            "batch_size",
            "seq_len",
            "source_len",
            "gradient_checkpointing",
            "padding",
            "gradient_accumulation_steps",
            "use_liger_kernel",
            "num_gpus",
            "image_tokens",
            "keep_outputs",
        ),
        sa.ForeignKeyConstraint(["model_id"], ["_models.id"], name="fk__runs_model_id", ondelete="CASCADE"),
        sa.UniqueConstraint(
            "model_id", "settings_key", "formula_version", name="uq__runs_model_id_settings_key_formula_version"
        ),
    )
    op.create_table(
        "_tensors",
        sa.Column("model_id", ROW_ID, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("model_id", "position", name="pk__tensors"),
        _integers("_tensors", "count", "parameters", "bytes"),
        sa.ForeignKeyConstraint(["model_id"], ["_models.id"], name="fk__tensors_model_id", ondelete="CASCADE"),
        sa.UniqueConstraint("model_id", "name", "dtype", "shape", name="uq__tensors_model_id_name_dtype_shape"),
    )
    op.create_table(
        "_estimates",
        sa.Column("run_id", ROW_ID, nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("trainable_parameters", sa.BigInteger(), nullable=True),
        sa.Column("peak_allocated_bytes", sa.BigInteger(), nullable=True),
        sa.Column("peak_reserved_bytes", sa.BigInteger(), nullable=True),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("peak_phase", sa.Text(), nullable=True),
        sa.Column("weights_bytes", sa.BigInteger(), nullable=True),
        sa.Column("gradients_bytes", sa.BigInteger(), nullable=True),
        sa.Column("optimizer_bytes", sa.BigInteger(), nullable=True),
        sa.Column("activations_bytes", sa.BigInteger(), nullable=True),
        sa.Column("temporary_bytes", sa.BigInteger(), nullable=True),
        sa.Column("loaded_bytes", sa.BigInteger(), nullable=True),
        sa.Column("steady_bytes", sa.BigInteger(), nullable=True),
        sa.Column("not_counted", sa.Text(), nullable=False),
        sa.Column("gpus", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "method", name="pk__estimates"),
        _integers(
            "_estimates",
            "position",
            "trainable_parameters",
            "peak_allocated_bytes",
            "peak_reserved_bytes",
            "total_bytes",
            "weights_bytes",
            "gradients_bytes",
            "optimizer_bytes",
            "activations_bytes",
            "temporary_bytes",
            "loaded_bytes",
            "steady_bytes",
        ),
        sa.CheckConstraint("status IN ('ok', 'partial', 'skipped')", name=op.f("ck__estimates_status")),
        sa.ForeignKeyConstraint(["run_id"], ["_runs.id"], name="fk__estimates_run_id", ondelete="CASCADE"),
    )
    op.create_table(
        "_explanations",
        sa.Column("run_id", ROW_ID, nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "method", name="pk__explanations"),
        sa.ForeignKeyConstraint(["run_id"], ["_runs.id"], name="fk__explanations_run_id", ondelete="CASCADE"),
    )
