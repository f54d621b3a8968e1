"""Each line of the tables of faults and refusals in docs/hub.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakehub import FakeHub
from fault_table import TABLE, meet
from refusal_table import TABLE as REFUSALS
from refusal_table import refuse

pytestmark = pytest.mark.hub


@pytest.mark.parametrize("name", TABLE)
def test_a_fault(fake_hub: FakeHub, tmp_path: Path, name: str) -> None:
    fault = TABLE[name]
    found = meet(fault, fake_hub, tmp_path / "cache.db")
    assert found.code == fault.expected, found.message
    assert found.requests == fault.requests, [r.url for r in fake_hub.log]
    assert found.message.isprintable()
    assert fake_hub.weight_bytes < 20e6


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal(fake_hub: FakeHub, tmp_path: Path, name: str) -> None:
    case = REFUSALS[name]
    said = refuse(case, fake_hub, tmp_path / "cache.db")
    assert (said.code, said.exit_code) == (case.code, case.exit_code), said
    assert case.repo.partition("@")[0] in said.message
    assert said.hint
    assert f"{said.message}{said.hint}".isprintable()
    assert fake_hub.weight_bytes < 1e6
