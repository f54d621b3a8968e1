"""The tables of the cache, each column documented once, here.

Tables carry a leading underscore: they are bookkeeping and may change by
migration. What people query are the views of `hubvram.store.views`, which take
the column texts from here. Bytes and counts are integers, times are ISO-8601
UTC text (``2026-11-24T03:14:22Z``), JSON is kept as text.

The tables are not STRICT: that needs SQLite 3.37, and clusters still run
systems with 3.26 and 3.34. What STRICT would give, whole numbers in integer
columns, is held by one CHECK per table instead (SQLite only: other databases
check by themselves).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

RowId = BigInteger().with_variant(Integer(), "sqlite")
"""Key type: SQLite makes a column its rowid only when it is declared INTEGER."""


def _col(name: str, type_: Any, doc: str, *args: Any, **kwargs: Any) -> Column[Any]:
    kwargs.setdefault("nullable", False)
    return Column(name, type_, *args, comment=doc, **kwargs)


def _opt(name: str, type_: Any, doc: str, *args: Any) -> Column[Any]:
    return _col(name, type_, doc, *args, nullable=True)


def _key() -> Column[Any]:
    return Column("id", RowId, primary_key=True, comment="Row number; means nothing outside this file.")


def _ref(name: str, target: str, doc: str, **kwargs: Any) -> Column[Any]:
    return _col(name, RowId, doc, ForeignKey(target, ondelete="CASCADE"), **kwargs)


def _table(name: str, doc: str, *items: Any) -> Table:
    """A table with its text, and a CHECK that its integer columns hold integers (SQLite)."""
    table = Table(name, metadata, *items, comment=doc)
    whole = [c.name for c in table.columns if isinstance(c.type, (BigInteger, Integer, Boolean)) and not c.primary_key]
    if whole:
        test = " AND ".join(f"typeof({c}) IN ('integer', 'null')" for c in whole)
        table.append_constraint(CheckConstraint(test, name="integers").ddl_if(dialect="sqlite"))
    return table


blobs = _table(
    "_blobs",
    "Encoded config and tensor list, once per content.",
    Column("hash", Text, primary_key=True, comment="SHA-256 of the data, in hexadecimal."),
    _col("size", BigInteger, "Length of the data in bytes."),
    _col("data", LargeBinary, "The encoded snapshot (hubvram.snapshot.codec)."),
)

models = _table(
    "_models",
    "One repo at one commit.",
    _key(),
    _col("endpoint", Text, "Hub that the repo was read from, without a trailing slash."),
    _col("repo_id", Text, "Canonical id of the repo, as the Hub spells it."),
    _col("commit_sha", Text, "Commit that everything was read at."),
    _col("is_newest", Boolean, "Whether this is the newest commit known of the repo: the one `main` named last."),
    _opt("author", Text, "User or organisation: the part of repo_id before the slash."),
    _opt("model_type", Text, "`model_type` of config.json."),
    _opt("architecture", Text, "First entry of `architectures` in config.json."),
    _opt("family", Text, "Name in hubvram's catalogue of architectures; NULL where unknown."),
    _col("parameters", BigInteger, "Elements in the safetensors headers of the one layout that is loaded."),
    _col("stored_bytes", BigInteger, "Bytes of those tensors as stored."),
    _col("logical_parameters", BigInteger, "Parameters as the config means them, where packing makes the two differ."),
    _opt("logical_note", Text, "Why logical_parameters differs from parameters."),
    _opt("dtype", Text, "Safetensors dtype that holds the most elements."),
    _col("tensor_count", BigInteger, "Number of tensors."),
    _opt("max_seq_len", BigInteger, "Longest sequence that the config allows, in tokens."),
    _opt("gated", Text, "`no`, `auto` or `manual`; NULL where the Hub does not say."),
    _opt("library_name", Text, "`library_name` on the Hub."),
    _opt("pipeline_tag", Text, "`pipeline_tag` on the Hub."),
    _col("fetched_at", Text, "When this commit was read from the Hub (UTC)."),
    _opt("hub_version", Text, "Version of huggingface_hub that read it."),
    _col("hubvram_version", Text, "Version of hubvram that wrote the row."),
    _col("config", Text, "config.json (JSON)."),
    _col("metadata", Text, "What else the Hub says about the repo (JSON)."),
    _col("warnings", Text, "What was odd about the repo (JSON array of texts)."),
    _col("description_warnings", Text, "What was odd about its architecture (JSON array of texts)."),
    Column("blob_hash", Text, ForeignKey("_blobs.hash"), nullable=False, index=True, comment="The encoded snapshot."),
    UniqueConstraint("endpoint", "repo_id", "commit_sha"),
)

parameters = _table(
    "_parameters",
    "Exact parameter counts per dtype.",
    _ref("model_id", "_models.id", "The model.", primary_key=True),
    _col("dtype", Text, "Safetensors dtype, as the header spells it.", primary_key=True),
    _col("count", BigInteger, "Elements of that dtype."),
    _opt("bytes", BigInteger, "Bytes that they take in the files; NULL for a dtype of unknown width."),
)

tensors = _table(
    "_tensors",
    "Groups of tensors that are alike but for the numbers in their names.",
    _ref("model_id", "_models.id", "The model.", primary_key=True),
    _col("position", BigInteger, "Order of first appearance in the files, from 0.", primary_key=True),
    _col("name", Text, "Tensor name with each number replaced by `*`, e.g. `model.layers.*.mlp.up_proj.weight`."),
    _col("dtype", Text, "Safetensors dtype, as the header spells it."),
    _col("shape", Text, "Shape of one tensor (JSON array)."),
    _col("count", BigInteger, "How many tensors the group has."),
    _col("parameters", BigInteger, "Elements of the whole group."),
    _opt("bytes", BigInteger, "Bytes of the whole group; NULL for a dtype of unknown width."),
    UniqueConstraint("model_id", "name", "dtype", "shape"),
)

files = _table(
    "_files",
    "Files of the repo, and what was made of them.",
    _ref("model_id", "_models.id", "The model.", primary_key=True),
    _col("position", BigInteger, "Order in the Hub's listing, from 0.", primary_key=True),
    _col("path", Text, "Path inside the repo."),
    _opt("size", BigInteger, "Bytes; NULL where the Hub does not say."),
    _col("role", Text, "`weights`, `index`, `config` or `ignored`."),
    _opt("reason", Text, "Why a file was ignored."),
    _opt("header_bytes", BigInteger, "Length of the safetensors header."),
    Column("content_hash", Text, index=True, comment="Git blob id or LFS sha256 from the Hub's listing."),
    UniqueConstraint("model_id", "path"),
)

runs = _table(
    "_runs",
    "One set of settings applied to one model; its estimates hang below.",
    _key(),
    _ref("model_id", "_models.id", "The model."),
    _col("settings_key", Text, "SHA-256 of the settings as asked for, in hexadecimal."),
    _col("formula_version", BigInteger, "Version of the estimator's formulas."),
    _col("is_newest", Boolean, "Whether no newer formula_version has been applied to this model and these settings."),
    _opt("batch_size", BigInteger, "Samples per device and step (`per_device_train_batch_size`)."),
    _opt("seq_len", BigInteger, "Tokens per sample, as applied."),
    _opt("source_len", BigInteger, "Encoder tokens per sample (encoder-decoders only)."),
    _opt("dtype", Text, "dtype that the base weights are loaded in, as applied."),
    _opt("mixed_precision", Text, "`no`, `bf16`, `fp16` or `fp8`."),
    _opt("optim", Text, "Optimizer, by its name in `TrainingArguments.optim`."),
    _opt("gradient_checkpointing", Boolean, "Whether layers are recomputed in the backward pass."),
    _opt("attn_implementation", Text, "`eager`, `sdpa` or `flash_attention_2`."),
    _opt("padding", Boolean, "Whether batches carry a padding mask."),
    _opt("max_grad_norm", Double, "Gradient clipping; 0 = off."),
    _opt("gradient_accumulation_steps", BigInteger, "As in `TrainingArguments`."),
    _opt("use_liger_kernel", Boolean, "As in `TrainingArguments`."),
    _opt("num_gpus", BigInteger, "Number of GPUs; memory is per GPU."),
    _opt("strategy", Text, "`ddp`, `zero1`, `zero2`, `zero3` or `fsdp`."),
    _opt("offload", Text, "`none`, `optimizer` or `params`."),
    _opt("image_tokens", BigInteger, "Image tokens per sample (vision-language models only)."),
    _opt("keep_outputs", Boolean, "Whether the loop holds the logits during backward; NULL = as max_grad_norm says."),
    _col("peft", Text, "PEFT config keys that were given (JSON object)."),
    _col("quantization", Text, "Quantisation keys that were given (JSON object)."),
    _col("stack", Text, "Library versions whose behaviour is assumed, where given (JSON object)."),
    _col("asked_settings", Text, "The settings as asked for (JSON object)."),
    _col("applied_settings", Text, "The settings as applied (JSON object)."),
    _col("warnings", Text, "Warnings of the report (JSON array of texts)."),
    _col("estimated_at", Text, "When the newest estimate of the run was written (UTC)."),
    _col("hubvram_version", Text, "Version of hubvram that wrote it."),
    UniqueConstraint("model_id", "settings_key", "formula_version"),
)

estimates = _table(
    "_estimates",
    "One method under one run.",
    _ref("run_id", "_runs.id", "The run.", primary_key=True),
    _col("method", Text, "Method, by its catalogue name.", primary_key=True),
    _col("position", BigInteger, "Order in which the methods were reported, from 0."),
    _col("status", Text, "`ok`, `partial` (a lower bound, see not_counted) or `skipped`."),
    _opt("reason", Text, "Why the method was skipped, or what the figures rest on."),
    _opt("trainable_parameters", BigInteger, "Parameters that the optimizer updates."),
    _opt("peak_allocated_bytes", BigInteger, "What `torch.cuda.max_memory_allocated()` would report over steps 1-3."),
    _opt("peak_reserved_bytes", BigInteger, "What `torch.cuda.max_memory_reserved()` would report."),
    _opt("total_bytes", BigInteger, "What nvidia-smi would show: reserved, CUDA context and libraries."),
    _opt("peak_phase", Text, "`load`, `forward`, `backward` or `optimizer`: where the peak is."),
    _opt("weights_bytes", BigInteger, "Weights alive at the peak. The five parts sum to peak_allocated_bytes."),
    _opt("gradients_bytes", BigInteger, "Gradients of parameters alive at the peak."),
    _opt("optimizer_bytes", BigInteger, "Optimizer state alive at the peak."),
    _opt("activations_bytes", BigInteger, "Activations alive at the peak."),
    _opt("temporary_bytes", BigInteger, "Everything else alive at the peak: workspaces, gradients of activations."),
    _opt("loaded_bytes", BigInteger, "Allocated after loading, before the first step."),
    _opt("steady_bytes", BigInteger, "Allocated between steps."),
    _col("not_counted", Text, "What a partial figure leaves out (JSON array of texts)."),
    _col(
        "gpus",
        Text,
        "The cards that were asked about (JSON array of name, count, usable_bytes, fits, headroom_bytes).",
    ),
    CheckConstraint("status IN ('ok', 'partial', 'skipped')", name="status"),
)

explanations = _table(
    "_explanations",
    "What `--explain` prints, packed; kept apart because it is many times the size of the figures.",
    _ref("run_id", "_runs.id", "The run.", primary_key=True),
    _col("method", Text, "Method, by its catalogue name.", primary_key=True),
    _col("data", LargeBinary, "Marks and tensors alive at the peak (JSON, compressed with zlib)."),
)

refs = _table(
    "_refs",
    "What a name and a revision meant when last asked.",
    _col("endpoint", Text, "Hub that was asked.", primary_key=True),
    _col("repo_id", Text, "Repo as it was asked for: may be an old or short name.", primary_key=True),
    _col("revision", Text, "Branch, tag or commit as it was asked for.", primary_key=True),
    Column(
        "model_id",
        RowId,
        ForeignKey("_models.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
        comment="The model that it meant.",
    ),
    _col("checked_at", Text, "When the Hub last said so (UTC)."),
)

errors = _table(
    "_errors",
    "Repos that could not be read; a later success removes the row.",
    _col("endpoint", Text, "Hub that was asked; empty where none was.", primary_key=True),
    _col("repo_id", Text, "Repo as it was asked for.", primary_key=True),
    _col("revision", Text, "Revision as it was asked for.", primary_key=True),
    _col("code", Text, "Error code, e.g. `gated`, `repo_not_found`, `no_safetensors`."),
    _col("message", Text, "What happened, in one line."),
    _opt("hint", Text, "What to do about it, in one line."),
    _col("times", BigInteger, "How often it happened since the last success."),
    _col("first_seen_at", Text, "When it first happened (UTC)."),
    _col("last_seen_at", Text, "When it last happened (UTC)."),
    _opt("scan_id", RowId, "The scan it last happened in.", ForeignKey("_scans.id", ondelete="SET NULL")),
    _col("hubvram_version", Text, "Version of hubvram that wrote the row."),
)

scans = _table(
    "_scans",
    "Runs of `hubvram scan`.",
    _key(),
    _col("started_at", Text, "When it started (UTC)."),
    _opt("finished_at", Text, "When it ended; NULL while it runs, or if the process was killed (UTC)."),
    _col("status", Text, "`running`, `finished` or `interrupted`."),
    _opt("total", BigInteger, "Repos in the list, duplicates collapsed."),
    _opt("ok", BigInteger, "Repos that were read."),
    _opt("failed", BigInteger, "Repos that failed."),
    _opt("settings", Text, "The settings as asked for (JSON object)."),
    _col("hubvram_version", Text, "Version of hubvram that ran it."),
    CheckConstraint("status IN ('running', 'finished', 'interrupted')", name="status"),
)

SETTING_COLUMNS: tuple[str, ...] = (
    "batch_size",
    "seq_len",
    "source_len",
    "dtype",
    "mixed_precision",
    "optim",
    "gradient_checkpointing",
    "attn_implementation",
    "padding",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "use_liger_kernel",
    "num_gpus",
    "strategy",
    "offload",
    "image_tokens",
    "keep_outputs",
)
"""Settings that are real columns of `_runs`, under the settings' own names."""

SETTING_JSON_COLUMNS: tuple[str, ...] = ("peft", "quantization", "stack")
"""Settings that are mappings, and JSON text in `_runs`."""
