"""Every output format, on a report made by hand."""

from __future__ import annotations

import csv
import importlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import GIB, sample_report

from hubvram.errors import GatedRepoError
from hubvram.report.estimates import FIELDS, View, error_page, report_page, rule_of_thumb, settings_line
from hubvram.report.formats import MODULES, NAMES, render
from hubvram.report.formats.markdown import escape
from hubvram.report.page import Page
from hubvram.report.rows import facts_page, rows_page
from hubvram.report.text import age, clean, size


def text(name: str, *pages: Page, many: bool = False) -> str:
    return "".join(render(name, pages, many=many))


def test_the_registry_names_modules_that_render() -> None:
    for name in NAMES:
        assert callable(importlib.import_module(MODULES[name]).render)


def test_json_is_the_reports_own_object() -> None:
    report = sample_report()
    assert json.loads(text("json", report_page(report, View()))) == report.to_dict()
    explained = json.loads(text("json", report_page(report, View(explain=True))))
    assert explained == report.to_dict(explain=True)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_of_several_is_an_array(count: int) -> None:
    pages = [report_page(sample_report(f"org/m{index}"), View()) for index in range(count)]
    assert [item["repo_id"] for item in json.loads(text("json", *pages, many=True))] == [
        f"org/m{index}" for index in range(count)
    ]


def test_ndjson_is_one_object_a_line() -> None:
    lines = text("ndjson", *(report_page(sample_report(f"m{i}"), View()) for i in range(2)), many=True).splitlines()
    assert [json.loads(line)["repo_id"] for line in lines] == ["m0", "m1"]


def test_a_failure_stands_in_the_place_of_the_result() -> None:
    page = error_page("org/x", GatedRepoError("org/x is gated.", hint="accept"))
    lines = text("ndjson", report_page(sample_report(), View()), page).splitlines()
    assert json.loads(lines[1]) == {
        "repo_id": "org/x",
        "error": {"code": "gated", "message": "org/x is gated.", "hint": "accept"},
    }
    row = next(csv.DictReader(io.StringIO(text("csv", page))))
    assert (row["repo_id"], row["status"], row["error_code"]) == ("org/x", "error", "gated")


@pytest.mark.parametrize(("name", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_has_one_header_and_a_row_per_method(name: str, delimiter: str) -> None:
    pages = [report_page(sample_report(f"m{index}"), View()) for index in range(2)]
    rows = list(csv.reader(io.StringIO(text(name, *pages, many=True)), delimiter=delimiter))
    assert tuple(rows[0]) == FIELDS
    assert len(rows) == 1 + 2 * 3
    first = dict(zip(rows[0], rows[1], strict=True))
    assert first["peak_allocated_bytes"] == str(15 * GIB)
    assert first["gradient_checkpointing"] == "true"
    assert first["smallest_gpu"] == "RTX 3090 24GB"


def test_a_column_that_the_header_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="late"):
        text("csv", rows_page(["a"], [[1]]), Page(data=None, records=[{"late": 1}]))


def test_the_table_says_what_matters_in_120_columns() -> None:
    lines = text("table", report_page(sample_report(), View())).splitlines()
    assert max(len(line) for line in lines) <= 120
    assert lines[0] == "org/tiny @ 0123456789ab (from the Hub)"
    assert "7,241,732,096 parameters, all BF16, 13.49 GiB stored" in lines[1]
    assert lines[2] == "batch 1 x 2048 tokens, bfloat16, adamw_torch_fused, checkpointing on, sdpa"
    (full,) = [line.split() for line in lines if line.startswith("full")]
    assert full[:9] == ["full", "1,000,000", "5.00", "4.00", "3.00", "2.00", "1.00", "15.00", "17.00"]
    assert " ".join(full[9:]) == "RTX 3090 24GB"
    (lora,) = [line.split() for line in lines if line.startswith("lora")]
    assert lora[0] == "lora*"
    assert lora[-1] == "none"
    assert "* lora: lower bound. Not counted: the tower." in lines
    assert "Skipped oft: the model has no linear layer of that kind" in lines


def test_named_cards_get_a_column_each() -> None:
    out = text("table", report_page(sample_report(gpus=("T4", "h100")), View(per_gpu=True)))
    assert "T4 16GB" in out
    assert "no, -2.00" in out
    assert f"fits, +{81559 / 1024 - 17:.2f}" in out


def test_rule_of_thumb_is_the_guides() -> None:
    # 7.241732096 billion x 2 x 2 = 28.97 GB
    assert rule_of_thumb(7_241_732_096) == 28_966_928_384
    page = report_page(sample_report(), View(unit="GB", rule_of_thumb=True))
    assert "28.97" in text("table", page)
    assert json.loads(text("json", page))["rule_of_thumb_bytes"] == 28_966_928_384


def test_explain_lists_marks_and_tensors() -> None:
    out = text("table", report_page(sample_report(), View(explain=True)))
    assert "full: timeline" in out
    assert "loss <- peak" in out
    assert "full: alive at the peak, 15.00 GiB in backward" in out
    assert "4096 x 4096" in out
    assert "a weight" in out


def test_markdown_is_a_pipe_table() -> None:
    out = text("markdown", report_page(sample_report(), View()))
    assert "| full" in out
    assert "|----" in out.replace(":", "-")
    assert "lora\\*" in out


@pytest.mark.parametrize(
    ("count", "unit", "expected"),
    [
        (2**30, "GiB", "1.00"),
        (10**9, "GB", "1.00"),
        (3 * 2**20, "MiB", "3"),
        (1234, "B", "1,234"),
        (0, "GiB", "0.00"),
        (1, "GiB", "<0.01"),
        (-1, "GiB", ">-0.01"),
        (None, "GiB", "-"),
    ],
)
def test_size(count: int | None, unit: str, expected: str) -> None:
    assert size(count, unit) == expected


def test_age() -> None:
    assert [age(s) for s in (5, 600, 10_800, 400_000)] == ["5 s", "10 min", "3 h", "4 days"]


HOSTILE = "evil\x1b]0;title\x07\x9b31m\u202e\ud800|`<b>\n"


@pytest.mark.parametrize("name", NAMES)
def test_no_format_lets_a_control_character_through(name: str) -> None:
    out = (
        text(name, report_page(sample_report(HOSTILE), View()), rows_page([HOSTILE], [[HOSTILE]]))[:10_000]
        if (name not in ("csv", "tsv"))
        else text(name, rows_page([HOSTILE], [[HOSTILE]]))
    )
    for char in "\x1b\x07\x9b\u202e\ud800":
        assert char not in out
    out.encode()


@given(st.text())
def test_clean_leaves_only_what_can_be_printed(value: str) -> None:
    cleaned = clean(value)
    cleaned.encode()
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in cleaned)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_json_says_the_same_after_the_escaping(value: object) -> None:
    assert json.loads(text("json", Page(data=value))) == value


def test_markdown_escapes_markup() -> None:
    assert escape("a|b*c[d](e)<f>") == "a\\|b\\*c\\[d\\](e)\\<f\\>"


def test_rows_with_twice_the_same_name_keep_both() -> None:
    assert rows_page(["a", "a", "a"], [[1, 2, 3]]).data == [{"a": 1, "a_2": 2, "a_3": 3}]


def test_rows_know_dates_blobs_and_what_is_no_number() -> None:
    page = rows_page(["x", "y"], [[float("nan"), b"\x01\xff"]])
    assert json.loads(text("json", page)) == [{"x": None, "y": "01ff"}]
    assert text("csv", page) == "x,y\n,01ff\n"


def test_rows_without_rows_have_a_header() -> None:
    assert text("csv", rows_page(["a", "b"], [])) == "a,b\n"
    assert text("json", rows_page(["a"], [])) == "[]\n"
    assert "a" in text("table", rows_page(["a"], []))


def test_facts() -> None:
    assert json.loads(text("json", facts_page({"a": 1}))) == {"a": 1}
    assert "1,000" in text("table", facts_page({"a": 1000}))


def test_settings_line_names_what_is_not_at_rest() -> None:
    line = settings_line(
        {
            "batch_size": 2,
            "seq_len": 8,
            "source_len": 16,
            "dtype": "float32",
            "mixed_precision": "bf16",
            "optim": "sgd",
            "gradient_checkpointing": False,
            "attn_implementation": "eager",
            "padding": True,
            "gradient_accumulation_steps": 4,
            "max_grad_norm": 0,
            "use_liger_kernel": True,
            "num_gpus": 2,
            "strategy": "zero2",
            "offload": "optimizer",
            "peft": {"r": 8, "target_modules": ["q", "v"]},
        }
    )
    assert line == (
        "batch 2 x 8 tokens, 16 source tokens, float32, mixed precision bf16, sgd, checkpointing off, eager, padding, "
        "accumulation 4, no clipping, liger, 2 GPUs zero2, optimizer offloaded, r=8, target_modules=q+v"
    )
