"""Whatever a record holds, the cache gives back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubvram.estimator import Description
from hubvram.plan.settings import Settings
from hubvram.report.record import AliveGroup, Breakdown, Estimate, GpuFit, Mark, ParameterCounts, Report
from hubvram.snapshot.dtypes import DTYPE_BITS, size_in_bytes
from hubvram.snapshot.records import FileInfo, Snapshot, TensorInfo
from hubvram.store.store import open_store

HUB = "https://hub.example"
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
counts = st.integers(0, 2**62)
phases = st.sampled_from(["load", "forward", "backward", "optimizer"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=4)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
tensors = st.lists(
    st.builds(TensorInfo, names, st.sampled_from(sorted(DTYPE_BITS)), shapes, names),
    max_size=8,
    unique_by=lambda t: t.name,
)
files = st.lists(
    st.builds(
        FileInfo,
        names,
        st.none() | counts,
        st.sampled_from(["weights", "index", "config", "ignored"]),
        st.none() | words,
        st.none() | counts,
        st.none() | words,
    ),
    max_size=4,
    unique_by=lambda f: f.path,
)
figures = st.builds(
    Estimate,
    method=names,
    status=st.sampled_from(["ok", "partial"]),
    reason=st.none() | words,
    not_counted=st.lists(words, max_size=2).map(tuple),
    trainable_parameters=counts,
    peak_allocated_bytes=counts,
    peak_reserved_bytes=st.none() | counts,
    total_bytes=counts,
    peak_phase=phases,
    breakdown=st.builds(Breakdown, counts, counts, counts, counts, counts),
    loaded_bytes=counts,
    steady_bytes=counts,
    gpus=st.lists(
        st.builds(GpuFit, words, counts, counts, st.booleans(), st.integers(-(2**62), 2**62)), max_size=2
    ).map(tuple),
    marks=st.lists(st.builds(Mark, phases, words, counts), max_size=2).map(tuple),
    alive=st.lists(st.builds(AliveGroup, words, words, words, counts, shapes, words, counts, words), max_size=2).map(
        tuple
    ),
)
skipped = st.builds(Estimate, method=names, status=st.just("skipped"), reason=words)
estimates = st.lists(figures | skipped, max_size=4, unique_by=lambda e: e.method).map(tuple)


def _description(snapshot: Snapshot, note: str | None, longest: int | None) -> Description:
    by_dtype: dict[str, int] = {}
    stored = 0
    for tensor in snapshot.tensors:
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.numel
        stored += size_in_bytes(tensor.dtype, tensor.numel) or 0
    ordered = dict(sorted(by_dtype.items(), key=lambda pair: (-pair[1], pair[0])))
    total = sum(by_dtype.values())
    return Description(None, note, None, ParameterCounts(total, ordered, stored, total + 1, note), longest)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_goes_in_comes_out(tmp_path: Path, data: Any) -> None:
    snapshot = data.draw(
        st.builds(
            Snapshot,
            repo_id=names,
            requested_revision=names,
            commit_sha=st.text("0123456789abcdef", min_size=40, max_size=40),
            endpoint=st.just(HUB),
            source=st.just("hub"),
            config=json_objects,
            tensors=tensors.map(tuple),
            files=files.map(tuple),
            metadata=json_objects,
            warnings=st.lists(words, max_size=2).map(tuple),
        )
    )
    description = _description(snapshot, data.draw(st.none() | words), data.draw(st.none() | counts))
    applied = {**Settings().to_dict(), "seq_len": data.draw(st.integers(1, 2**40))}
    report = Report(
        repo_id=snapshot.repo_id,
        requested_revision=snapshot.requested_revision,
        commit_sha=snapshot.commit_sha,
        endpoint=HUB,
        source="cache",
        model_type=None,
        architecture=description.architecture,
        parameters=description.parameters,
        settings=applied,
        estimates=data.draw(estimates),
        warnings=snapshot.warnings,
    )
    with open_store(tmp_path / "h.db") as store:
        store.save_report(snapshot, description, report, settings_key=Settings().key(), formula_version=1)
        seen = store.load_snapshot(HUB, snapshot.repo_id, snapshot.requested_revision)
        assert seen is not None
        assert seen.snapshot == replace(snapshot, source="cache")
        assert seen.description == description
        assert list(seen.description.parameters.by_dtype) == list(description.parameters.by_dtype)
        found = store.load_report(
            HUB,
            snapshot.repo_id,
            snapshot.requested_revision,
            Settings().key(),
            1,
            [e.method for e in report.estimates],
            explain=True,
        )
        assert found is not None
        if report.estimates:
            assert found.report == report
        again = store.load_snapshot(HUB, snapshot.repo_id, snapshot.commit_sha)
        assert again is not None
