"""REPO arguments: every spelling of the interface, and nothing else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubvram.errors import SettingError
from hubvram.sources.refs import effective_endpoint, parse_ref

SHA = "26bca36bde8333b5d7f72e9ed20ccda6a618af24"


@pytest.mark.parametrize(
    ("text", "repo_id", "revision"),
    [
        ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1", None),
        ("gpt2", "gpt2", None),
        ("  org/name  ", "org/name", None),
        ("org/name/", "org/name", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("gpt2@main", "gpt2", "main"),
        (f"org/name@{SHA}", "org/name", SHA),
        ("org/name@feature/x", "org/name", "feature/x"),
        ("org/name@refs/pr/4", "org/name", "refs/pr/4"),
        ("org/name@refs/convert/parquet", "org/name", "refs/convert/parquet"),
        ("hf://org/name", "org/name", None),
        ("hf://models/org/name@main", "org/name", "main"),
        ("hf://org/name@refs/pr/4/config.json", "org/name", "refs/pr/4"),
        ("hf://org/name@v2/sub/config.json", "org/name", "v2"),
        ("hf://org/name/config.json", "org/name", None),
        ("https://huggingface.co/org/name", "org/name", None),
        ("https://huggingface.co/org/name/", "org/name", None),
        ("https://huggingface.co/org/name?library=transformers#usage", "org/name", None),
        ("https://huggingface.co/org/name/tree/main", "org/name", "main"),
        ("https://huggingface.co/org/name/blob/v1/config.json", "org/name", "v1"),
        ("https://huggingface.co/org/name/resolve/" + SHA + "/a/b.safetensors?download=true", "org/name", SHA),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F4", "org/name", "refs/pr/4"),
        ("https://huggingface.co/org/name/tree/refs/pr/4/sub", "org/name", "refs/pr/4"),
        ("https://huggingface.co/org/name/commit/" + SHA, "org/name", SHA),
        ("https://huggingface.co/org/name/discussions/4", "org/name", None),
        ("https://huggingface.co/gpt2", "gpt2", None),
        ("https://huggingface.co/gpt2/tree/main", "gpt2", "main"),
        ("https://huggingface.co/api/models/org/name/revision/v1", "org/name", "v1"),
        ("http://www.huggingface.co/org/name", "org/name", None),
        ("hf.co/org/name", "org/name", None),
        ("huggingface.co/org/name/tree/main", "org/name", "main"),
    ],
)
def test_hub_spellings(text: str, repo_id: str, revision: str | None) -> None:
    ref = parse_ref(text)
    assert (ref.repo_id, ref.revision, ref.local_path) == (repo_id, revision, None)
    assert ref.original == text
    assert ref.requested_revision == (revision or "main")


@pytest.mark.parametrize(
    "text", [".", "..", "./dir", "../up/dir", "/abs/dir", "~", "~/models/x", "~user/x", "C:\\m", ".\\m"]
)
def test_folders(text: str) -> None:
    ref = parse_ref(text)
    assert ref.is_local
    assert (ref.repo_id, ref.local_path, str(ref)) == (None, text, text)


def test_urls_of_the_configured_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://localhost:8080/hub/org/name/tree/v1"
    assert parse_ref(url, endpoint="http://localhost:8080/hub").revision == "v1"
    with pytest.raises(SettingError, match="not an address of"):
        parse_ref(url)
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:8080/hub/")
    assert parse_ref(url).repo_id == "org/name"
    assert parse_ref("localhost:8080/org/name").repo_id == "org/name"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a/b/c",
        "org//name",
        "/".join(["x" * 97, "y"]),
        "org/na me",
        "org/name@",
        "org/name@a b",
        "org/name@../../x",
        "org/name@a^b",
        "-org/name",
        "org/name--x",
        "org/..",
        "org/name.git",
        "org/na\x1b[31mme",
        "hf://",
        "hf://datasets/org/name",
        "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/spaces/org/name",
        "https://huggingface.co/",
        "https://example.com/org/name",
        "https://huggingface.co.evil.com/org/name",
        "https://huggingface.co@evil.com/org/name",
        "ftp://huggingface.co/org/name",
        "file:///etc/passwd",
        "https://[::1/org/name",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_ref(text)
    assert caught.value.message.isprintable()
    assert caught.value.hint


def test_the_option_gives_the_revision() -> None:
    assert parse_ref("org/name", revision="v1").revision == "v1"


@pytest.mark.parametrize("text", ["org/name@main", "hf://org/name@v2", "https://huggingface.co/org/name/tree/main"])
def test_two_revisions(text: str) -> None:
    with pytest.raises(SettingError, match="two revisions"):
        parse_ref(text, revision="main")


def test_a_folder_has_no_revision() -> None:
    with pytest.raises(SettingError, match="folder"):
        parse_ref("./dir", revision="main")


@pytest.mark.parametrize(
    "endpoint", ["huggingface.co", "ftp://x", "https://", "https://a b", "https://x?y=1", "http://x:99999"]
)
def test_bad_endpoint(endpoint: str) -> None:
    with pytest.raises(SettingError, match="endpoint"):
        effective_endpoint(endpoint)


def test_endpoint_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert effective_endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/")
    assert effective_endpoint() == "http://mirror.example"
    assert effective_endpoint("http://arg.example:1234") == "http://arg.example:1234"


_ends = string.ascii_letters + string.digits
_part = st.builds(
    lambda a, mid, z: a + mid + z,
    st.sampled_from(_ends),
    st.text(_ends + "_.", max_size=12).filter(lambda s: ".." not in s and not s.startswith(".")),
    st.sampled_from(_ends),
).filter(lambda s: not s.endswith(".git") and ".." not in s)
_special = st.one_of(st.integers(1, 9999).map("refs/pr/{}".format), st.just("refs/convert/parquet"))
_revision = st.one_of(st.text(_ends + "_-", min_size=1, max_size=20).filter(lambda s: not s.startswith("-")), _special)


@given(org=_part, name=_part, revision=st.none() | _revision)
def test_every_form_means_the_same(org: str, name: str, revision: str | None) -> None:
    repo = f"{org}/{name}"
    at = f"@{revision}" if revision else ""
    tree = f"/tree/{revision}" if revision else ""
    forms = [f"{repo}{at}", f"hf://{repo}{at}", f"https://huggingface.co/{repo}{tree}"]
    if revision:
        forms.append(f"https://huggingface.co/{repo}/blob/{revision.replace('/', '%2F')}/config.json")
    for form in forms:
        ref = parse_ref(form)
        assert (ref.repo_id, ref.revision) == (repo, revision), form
        assert parse_ref(str(ref)) == parse_ref(f"{repo}{at}")


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_in_one_line(text: str) -> None:
    message = None
    try:
        ref = parse_ref(text)
    except SettingError as error:
        message = error.message
    if message is not None:
        assert message.isprintable()
        return
    assert (ref.repo_id is None) != (ref.local_path is None)
    again = parse_ref(str(ref))
    assert (again.repo_id, again.revision, again.local_path) == (ref.repo_id, ref.revision, ref.local_path)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(SettingError) as caught:
        parse_ref("https://user:hf_secret@huggingface.co/org/name")
    assert "hf_secret" not in caught.value.message


@pytest.mark.parametrize(
    "address", ["https://user:secret@hub.example", "https://secret@hub.example", "h://x:secret@y z"]
)
def test_an_endpoint_with_a_password_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(SettingError) as caught:
        effective_endpoint(address)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"
