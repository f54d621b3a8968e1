"""The public face: every view and column is described, and says what the tables hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubvram.plan.settings import Settings
from hubvram.store.query import run_query
from hubvram.store.schema import SETTING_COLUMNS, SETTING_JSON_COLUMNS, metadata
from hubvram.store.schema_doc import schema_markdown
from hubvram.store.store import Store
from hubvram.store.views import VIEW_NAMES, VIEWS, View

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "schema.md"


def rows(db: Path, sql: str) -> list[dict[str, Any]]:
    result = run_query(db, sql)
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def test_the_page_is_what_the_code_says() -> None:
    """After a change: ``python -m hubvram.store.schema_doc > docs/schema.md``."""
    assert DOC.read_text(encoding="utf-8") == schema_markdown()


def test_every_column_of_every_table_is_described() -> None:
    for table in metadata.sorted_tables:
        assert table.comment, table.name
        for column in table.columns:
            assert column.comment, column
            assert column.comment.endswith("."), column


def test_the_promised_views_are_there() -> None:
    assert {"models", "parameters", "tensors", "estimates", "files", "errors", "scans"} <= set(VIEW_NAMES)


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.name)
def test_views_have_the_columns_that_are_described(store: Store, db: Path, view: View) -> None:
    columns = run_query(db, f"select * from {view.name}").columns
    assert columns == tuple(c.name for c in view.columns)
    assert all(c.doc for c in view.columns)


def test_every_setting_is_a_column_of_estimates(store: Store, db: Path) -> None:
    columns = set(run_query(db, "select * from estimates").columns)
    assert set(Settings().to_dict()) == set(SETTING_COLUMNS) | set(SETTING_JSON_COLUMNS)
    assert set(Settings().to_dict()) <= columns


def test_bytes_have_twins_in_gib(store: Store, db: Path) -> None:
    for view in VIEWS:
        names = {c.name for c in view.columns}
        for name in names - {"header_bytes"}:
            if name.endswith("_bytes"):
                assert name.replace("_bytes", "_gib") in names, (view.name, name)


def test_models(db: Path, save: Callable[..., Any]) -> None:
    save("org/name")
    (row,) = rows(db, "select * from models")
    # 3 layers: embedding 100 x 8 and 3 x 16 x 8 in BF16 = 1184; 3 x 8 in F32.
    wanted = {
        "repo_id": "org/name",
        "author": "org",
        "model_type": "mistral",
        "architecture": "MistralForCausalLM",
        "family": "llama",
        "parameters": 1184 + 24,
        "stored_bytes": 1184 * 2 + 24 * 4,
        "stored_gib": 0.0,
        "dtype": "BF16",
        "tensor_count": 7,
        "max_seq_len": 32768,
        "gated": "no",
        "library_name": "transformers",
        "pipeline_tag": None,
        "fetched_at": "2026-01-02T03:04:05Z",
    }
    assert {k: row[k] for k in wanted} == wanted


def test_a_repo_without_an_owner_has_no_author(db: Path, save: Callable[..., Any]) -> None:
    save("gpt2")
    assert rows(db, "select author from models") == [{"author": None}]


def test_parameters_tensors_and_files(db: Path, save: Callable[..., Any]) -> None:
    save("org/name")
    assert rows(db, "select dtype, count, bytes from parameters") == [
        {"dtype": "BF16", "count": 1184, "bytes": 2368},
        {"dtype": "F32", "count": 24, "bytes": 96},
    ]
    found = rows(db, "select name, dtype, shape, count, parameters, bytes from tensors")
    assert [tuple(r.values()) for r in found] == [
        ("model.embed_tokens.weight", "BF16", "[100,8]", 1, 800, 1600),
        ("model.layers.*.mlp.up_proj.weight", "BF16", "[16,8]", 3, 384, 768),
        ("model.layers.*.norm.weight", "F32", "[8]", 3, 24, 96),
    ]
    found = rows(db, "select path, role, reason, size, header_bytes, content_hash from files")
    assert [tuple(r.values()) for r in found] == [
        ("model.safetensors", "weights", None, 9000, 500, "beef"),
        ("consolidated.safetensors", "ignored", "duplicate layout", None, None, None),
    ]


def test_estimates(db: Path, save: Callable[..., Any]) -> None:
    settings = Settings(batch_size=4, peft={"r": 32}, max_grad_norm=0, gradient_checkpointing=False)
    save("org/name", settings=settings)
    (row,) = rows(db, "select * from estimates")
    wanted = {
        "method": "lora",
        "status": "ok",
        "total_bytes": 24 * 1024**3,
        "total_gib": 24.0,
        "weights_bytes": 10,
        "temporary_bytes": 50,
        "batch_size": 4,
        "seq_len": 2048,
        "dtype": "bfloat16",
        "gradient_checkpointing": 0,
        "max_grad_norm": 0.0,
        "peft": '{"r":32}',
        "quantization": "{}",
        "formula_version": 1,
    }
    assert {k: row[k] for k in wanted} == wanted


def test_whole_numbers_stay_whole(store: Store, db: Path, save: Callable[..., Any]) -> None:
    save("org/name")
    from sqlalchemy import text

    from hubvram.errors import StoreError

    for value in ("'many'", "1.5"):
        with pytest.raises(StoreError, match="CHECK constraint failed"), store.write() as connection:
            connection.execute(text(f"update _models set parameters = {value}"))


def test_the_queries_of_the_page_run(db: Path, save: Callable[..., Any]) -> None:
    save("org/name")
    (block,) = re.findall(r"```sql\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    queries = [q for q in block.split(";\n") if q.strip()]
    assert len(queries) >= 5
    assert [len(list(run_query(db, q).rows)) for q in queries] == [0, 1, 1, 1, 0]
