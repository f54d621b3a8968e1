"""``docs/schema.md``, made from the texts that stand with the columns.

``python -m hubvram.store.schema_doc`` prints it; a test holds the file against it.
"""

from __future__ import annotations

import sys

from sqlalchemy import BigInteger, Boolean, Double, Text

from hubvram.store.views import VIEWS, View

_HEAD = """# The cache as a database

<!-- Made by `python -m hubvram.store.schema_doc > docs/schema.md`: change the texts in hubvram/store, not here. -->

The cache is one SQLite file; `hubvram cache path` says where. `hubvram sql "select ..."` reads it, and so
does any other tool for SQLite. What stands here are its views: they stay as they are, while the tables
below them (their names begin with an underscore) may change with a version of hubvram.

- Bytes and counts are whole numbers; a `*_gib` column is its `*_bytes` twin divided by 1,073,741,824,
  rounded to three decimals.
- Times are UTC, as ISO 8601 text: `2026-11-24T03:14:22Z`. They sort as text.
- JSON columns are text for `json_extract(column, '$.key')`.
- `models`, `parameters`, `tensors`, `files` and `estimates` show each repo at its newest known commit (the one
  that `main` meant when the Hub was last asked) and join on `repo_id` (and `endpoint`, where several Hubs are in
  use). `model_history` and `estimate_history` have the rest.

```sql
select repo_id, method, total_gib from estimates where batch_size = 1 and total_gib < 24 order by total_gib;
select author, count(*), sum(parameters) from models group by author;
select m.repo_id, p.dtype, p.count from models m join parameters p using (repo_id, endpoint) where p.dtype = 'F32';
select repo_id, json_extract(config, '$.hidden_size') as hidden_size from models;
select repo_id, code, message from errors order by last_seen_at desc;
```
"""


def schema_markdown() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_view_markdown(view) for view in VIEWS)])


def _view_markdown(view: View) -> str:
    lines = [f"## {view.name}", "", view.doc, "", "| column | type | meaning |", "|---|---|---|"]
    for column in view.columns:
        kind = _TYPES[type(column.element.type)]
        lines.append(f"| `{column.name}` | {kind} | {_cell(column.doc)} |")
    return "\n".join([*lines, ""])


_TYPES = {BigInteger: "integer", Double: "real", Boolean: "0 or 1", Text: "text"}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(schema_markdown())
