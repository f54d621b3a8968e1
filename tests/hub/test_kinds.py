"""Each kind of repo: its answer, its requests and its bytes. `KINDS` is also the table of docs/hub.md's numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakehub import GRANTED, FakeHub

from hubvram.client import Client
from hubvram.errors import NoSafetensorsError, OfflineError
from hubvram.report.record import Report
from hubvram.sources.loopback import Content, FixtureRepo, Revision, load_repo

pytestmark = pytest.mark.hub

SMALL = "HuggingFaceTB/SmolLM2-135M"
LORA = "alignment-handbook/zephyr-7b-sft-qlora"
MISTRAL = "mistralai/Mistral-7B-v0.1"
GATED = "meta-llama/Llama-3.2-1B"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
GGUF = "TheBloke/Mistral-7B-v0.1-GGUF"
PICKLE = "EleutherAI/gpt-j-6b"


@pytest.fixture
def client(hub: FakeHub, tmp_path: Path) -> Iterator[Client]:
    with Client(endpoint=hub.url, db=tmp_path / "cache.db", token=GRANTED) as opened:
        yield opened


def opened(hub: FakeHub, tmp_path: Path, **options: Any) -> Client:
    return Client(**{"endpoint": hub.url, "db": tmp_path / "cache.db", "token": GRANTED, **options})


def statuses(report: Report) -> dict[str, str]:
    return {e.method: e.status for e in report.estimates}


def repo(hub: FakeHub, repo_id: str) -> FixtureRepo:
    found = hub.inner.repo(repo_id)
    assert found is not None
    return found


def rename(hub: FakeHub, repo_id: str, names: dict[str, str]) -> None:
    """Files under other names; None drops one."""
    found = repo(hub, repo_id)
    main = found.revisions["main"]
    files = {names.get(p, p): c for p, c in main.files.items() if names.get(p, p)}
    found.revisions["main"] = Revision(main.sha, files, frozenset(names.get(p, p) for p in main.lfs))


def put(hub: FakeHub, repo_id: str, path: str, value: Any) -> None:
    body = json.dumps(value).encode()
    hub.file(repo_id, path, Content(body, len(body)))


KINDS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    # kind: repo, options, requests, bytes of body at most, parameters
    "single": (SMALL, {}, 3, 60_000, 134_515_008),
    "sharded": (MISTRAL, {}, 4, 60_000, 7_241_732_096),
    "consolidated + HF": ("mistralai/Mistral-7B-Instruct-v0.3", {}, 4, 60_000, 7_248_023_552),
    "consolidated, by --file": (
        "mistralai/Mistral-7B-Instruct-v0.3",
        {"file": "consolidated.safetensors"},
        3,
        60_000,
        7_248_023_552,
    ),
    "GPTQ": ("TheBloke/Mistral-7B-v0.1-GPTQ", {}, 3, 180_000, 1_198_788_608),
    "AWQ": ("Qwen/Qwen2.5-0.5B-Instruct-AWQ", {}, 3, 100_000, 320_214_144),
    "bitsandbytes 4-bit": ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", {}, 3, 220_000, 4_650_177_823),
    "FP8, block scales": ("Qwen/Qwen3-8B-FP8", {}, 4, 90_000, 8_191_159_296),
    "MXFP4": ("openai/gpt-oss-20b", {}, 4, 70_000, 11_956_805_184),
    "PEFT adapter": (LORA, {}, 3, 70_000, 13_631_488),
    "diffusers": (SDXL, {}, 6, 400_000, 3_468_837_867),
    "diffusers, variant": (SDXL, {"variant": "fp16"}, 6, 400_000, 3_468_837_867),
    "pickle": (PICKLE, {}, 4, 140_000, 6_050_882_784),
    "pickle, conversion": (PICKLE, {"allow_conversion_pr": True}, 8, 70_000, 6_050_882_784),
    "GGUF": (GGUF, {}, 2, 1_060_000, 7_241_732_096),
}


@pytest.mark.parametrize("kind", KINDS)
def test_requests_and_bytes(hub: FakeHub, tmp_path: Path, kind: str) -> None:
    name, options, requests, most, parameters = KINDS[kind]
    with opened(hub, tmp_path, **options) as client:
        found = client.inspect(name)
    assert found.parameters.total == parameters
    assert len(hub.log) == requests
    assert hub.weight_bytes <= most  # waits until the server has let go of all
    assert sum(r.sent for r in hub.log) <= most
    assert {r.method for r in hub.log} == {"GET"}
    assert len(hub.requests(r"/config\.json")) <= 1


# -- names and folders ---------------------------------------------------------------


def test_a_single_file_by_another_name(hub: FakeHub, client: Client) -> None:
    rename(hub, SMALL, {"model.safetensors": "smol-135m.safetensors"})
    found = client.inspect(SMALL)
    assert (found.parameters.total, found.family) == (134_515_008, "llama")
    assert any("'smol-135m.safetensors'" in w for w in found.warnings)
    assert len(hub.log) == 3


def test_a_model_in_a_subfolder(hub: FakeHub, client: Client) -> None:
    rename(hub, SMALL, {"model.safetensors": "fp32/model.safetensors", "config.json": "fp32/config.json"})
    found = client.inspect(SMALL)
    assert (found.parameters.total, found.family) == (134_515_008, "llama")
    assert any("folder 'fp32'" in w for w in found.warnings)


def test_shards_without_an_index(hub: FakeHub, client: Client) -> None:
    hub.remove(MISTRAL, "model.safetensors.index.json")
    hub.remove(MISTRAL, "pytorch_model.bin.index.json")
    found = client.inspect(MISTRAL)
    assert found.parameters.total == 7_241_732_096
    assert any("without an index" in w for w in found.warnings)
    assert len(hub.log) == 4


def test_shards_that_only_the_index_names(hub: FakeHub, client: Client) -> None:
    names = {f"model-0000{i}-of-00002.safetensors": f"part-{i}.safetensors" for i in (1, 2)}
    index = json.loads(repo(hub, MISTRAL).revisions["main"].files["model.safetensors.index.json"].head)
    index["weight_map"] = {k: names[v] for k, v in index["weight_map"].items()}
    rename(hub, MISTRAL, names)
    put(hub, MISTRAL, "model.safetensors.index.json", index)
    assert client.inspect(MISTRAL).parameters.total == 7_241_732_096
    assert len(hub.log) == 4, "the bulk endpoint tells the shards"


def test_a_variant_is_read_and_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    main = repo(hub, SMALL).revisions["main"]
    hub.file(SMALL, "model.bf16.safetensors", main.files["model.safetensors"])
    with opened(hub, tmp_path, variant="bf16") as client:
        files = {f.path: f.role for f in client.inspect(SMALL).files}
        assert (files["model.bf16.safetensors"], files["model.safetensors"]) == ("weights", "ignored")
    with opened(hub, tmp_path) as client:
        files = {f.path: f.role for f in client.inspect(SMALL).files}
        assert (files["model.bf16.safetensors"], files["model.safetensors"]) == ("ignored", "weights")
    with opened(hub, tmp_path, offline=True, variant="bf16") as client, pytest.raises(OfflineError):
        client.inspect(SMALL)


def test_sentence_transformers_modules_are_named(hub: FakeHub, client: Client) -> None:
    put(hub, SMALL, "modules.json", [])
    dense = b'{"linear.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    hub.file(SMALL, "2_Dense/model.safetensors", Content(len(dense).to_bytes(8, "little") + dense, 8 + len(dense) + 8))
    found = client.inspect(SMALL)
    assert found.parameters.total == 134_515_008
    (reason,) = [f.reason for f in found.files if f.path == "2_Dense/model.safetensors"]
    assert "sentence-transformers module 2_Dense" in (reason or "")


# -- configs ---------------------------------------------------------------------------


def test_code_of_its_own_is_named_and_never_run(hub: FakeHub, client: Client) -> None:
    config = json.loads(repo(hub, SMALL).revisions["main"].files["config.json"].head)
    put(hub, SMALL, "config.json", {**config, "auto_map": {"AutoModel": "modeling_evil.Evil"}})
    hub.file(SMALL, "modeling_evil.py", Content(b"raise SystemExit", 16))
    report = client.estimate(SMALL, ["lora"])
    assert any("'modeling_evil.py'" in w and "never run" in w for w in report.warnings)
    assert statuses(report) == {"lora": "ok"}
    assert not hub.requests("modeling_evil")


def test_no_config(hub: FakeHub, client: Client) -> None:
    hub.remove(SMALL, "config.json")
    report = client.estimate(SMALL, ["full"])
    assert report.parameters.total == 134_515_008
    assert any("no config.json" in w for w in report.warnings)
    assert statuses(report) == {"full": "partial"}
    assert len(hub.log) == 2


def test_the_base_of_a_quantised_repo_is_named(client: Client) -> None:
    (note,) = [w for w in client.inspect("TheBloke/Mistral-7B-v0.1-GPTQ").warnings if "quantised" in w]
    assert (
        note == "the weights are quantised (gptq, 4 bits); the card names mistralai/Mistral-7B-v0.1 as the base model"
    )


# -- adapters --------------------------------------------------------------------------


def test_an_adapter_is_estimated_on_its_base(hub: FakeHub, client: Client) -> None:
    report = client.estimate(LORA)
    done = {e.method: e for e in report.estimates if e.status == "ok"}
    assert set(done) == {"lora", "lora_int8", "qlora", "inference"}
    # The adapter's own tensors, exactly: r = 16 on q, k, v, o of 32 layers.
    assert done["lora"].trainable_parameters == report.parameters.total == 13_631_488
    (inference,) = client.estimate(MISTRAL, ["inference"]).estimates
    assert done["inference"].total_bytes == inference.total_bytes
    assert any(f"on its base model {MISTRAL} at" in w for w in report.warnings)
    (reason,) = {e.reason for e in report.estimates if e.status == "skipped"}
    assert reason == "the repo is a PEFT adapter: only lora, lora_int8, qlora and inference go on from it"
    assert len(hub.log) == 7, "three for the adapter, four for its base, which is then cached"
    hub.log.clear()
    again = client.estimate(LORA)
    assert (hub.log, again.source) == ([], "cache")
    assert again.estimates == report.estimates
    assert again.warnings == report.warnings


def adapter_config(hub: FakeHub, **changes: Any) -> None:
    config = json.loads(repo(hub, LORA).revisions["main"].files["adapter_config.json"].head)
    put(hub, LORA, "adapter_config.json", {**config, **changes})


@pytest.mark.parametrize(
    ("changes", "methods"),
    [
        ({"use_dora": True}, {"dora", "qdora", "inference"}),
        ({"use_rslora": True}, {"rslora", "inference"}),
        ({"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}, {"ia3", "inference"}),
        ({"some_key_of_a_later_peft": 5}, {"lora", "lora_int8", "qlora", "inference"}),
    ],
)
def test_the_method_follows_the_adapters_type(
    hub: FakeHub, client: Client, changes: dict[str, Any], methods: set[str]
) -> None:
    adapter_config(hub, **changes)
    assert {e.method for e in client.estimate(LORA).estimates if e.status == "ok"} == methods


def test_an_adapter_of_an_unknown_type(hub: FakeHub, client: Client) -> None:
    adapter_config(hub, peft_type="QUANTUM")
    report = client.estimate(LORA, ["lora", "inference"])
    assert statuses(report) == {"lora": "skipped", "inference": "ok"}
    assert "type 'QUANTUM'" in (report.estimates[0].reason or "")


def test_a_base_that_is_a_path_is_looked_up_in_the_card(hub: FakeHub, client: Client) -> None:
    adapter_config(hub, base_model_name_or_path="/data/models/mistral")
    repo(hub, LORA).meta["cardData"] = {"base_model": MISTRAL}
    assert statuses(client.estimate(LORA, ["lora"])) == {"lora": "ok"}


@pytest.mark.parametrize("named", ["/data/models/mistral", "C:\\models\\m", "../x", "", None, 5])
def test_a_base_that_nobody_can_find(hub: FakeHub, client: Client, named: Any) -> None:
    adapter_config(hub, base_model_name_or_path=named)
    repo(hub, LORA).meta["cardData"] = {}
    report = client.estimate(LORA, ["lora", "inference"])
    assert statuses(report) == {"lora": "skipped", "inference": "skipped"}
    assert "adapter_config.json names" in (report.estimates[0].reason or "")
    assert report.parameters.total == 13_631_488


def test_a_base_that_is_gone_or_gated_is_said_and_not_kept(hub: FakeHub, client: Client) -> None:
    adapter_config(hub, base_model_name_or_path="nobody/nothing")
    reason = client.estimate(LORA, ["lora"]).estimates[0].reason or ""
    assert "its base model nobody/nothing cannot be read" in reason
    hub.inner._repos["nobody/nothing"] = FixtureRepo(
        "nobody/nothing", repo(hub, MISTRAL).meta, repo(hub, MISTRAL).revisions
    )
    assert statuses(client.estimate(LORA, ["lora"])) == {"lora": "ok"}


# -- pipelines ---------------------------------------------------------------------------


def test_a_pipeline_lists_its_components(client: Client) -> None:
    found = client.inspect(SDXL)
    listed = {c["name"]: (c["class"], c["parameters"]) for c in found.metadata["components"]}
    assert listed == {
        "text_encoder": ("CLIPTextModel", 123_060_480),
        "text_encoder_2": ("CLIPTextModelWithProjection", 694_659_840),
        "unet": ("UNet2DConditionModel", 2_567_463_684),
        "vae": ("AutoencoderKL", 83_653_863),
    }
    assert sum(n for _, n in listed.values()) == found.parameters.total
    assert found.architecture == "StableDiffusionXLPipeline"


def test_a_pipeline_has_lower_bounds(client: Client) -> None:
    (full,) = client.estimate(SDXL, ["full"], settings={"dtype": "float16"}).estimates
    lora, qlora = client.estimate(SDXL, ["lora", "qlora"], settings={"peft": {"r": 4}, "dtype": "float16"}).estimates
    unet, everything = 2_567_463_684, 3_468_837_867
    assert full.status == lora.status == "partial"
    assert "activations" in full.not_counted[0]
    assert full.trainable_parameters == unet
    assert full.breakdown is not None
    # Weights once; gradients and two moments of the unet alone; each tensor rounded up to 512 bytes.
    tensors = 2641
    assert 0 <= full.breakdown.weights_bytes - 2 * everything <= 512 * tensors
    assert 0 <= full.breakdown.gradients_bytes - 2 * unet <= 512 * tensors
    # r = 4 on to_q, to_k, to_v, to_out.0 of SDXL's unet: what diffusers' training script reports.
    assert lora.trainable_parameters == 5_806_080
    assert (qlora.status, "unet" in (qlora.reason or "")) == ("skipped", True)


# -- formats that are not safetensors ----------------------------------------------------


def test_gguf_counts_and_names_its_base(client: Client) -> None:
    report = client.estimate(GGUF)
    assert report.parameters.by_dtype == {"Q4_K": 6_103_760_896, "Q6_K": 1_137_704_960, "F32": 266_240}
    # 144 bytes per 256 elements, 210 per 256, 4 each.
    assert report.parameters.stored_bytes == 6_103_760_896 // 256 * 144 + 1_137_704_960 // 256 * 210 + 4 * 266_240
    assert set(statuses(report).values()) == {"skipped"}
    assert report.model_type == "llama", "as the header says"
    assert {e.reason for e in report.estimates} == {
        "GGUF is for inference with llama.cpp, not for training; its base model is mistralai/Mistral-7B-v0.1"
    }


@pytest.mark.parametrize("card", [None, "a b", ["x/y", "z/w"], {"a": 1}, "../../x", "\x1b[31m/x"])
def test_gguf_with_a_card_that_names_nothing_usable(hub: FakeHub, client: Client, card: Any) -> None:
    repo(hub, GGUF).meta["cardData"] = {"base_model": card}
    reason = client.estimate(GGUF, ["lora"]).estimates[0].reason or ""
    assert "ask for the base model that its card names" in reason


def test_a_pickle_is_counted_like_its_conversion(hub: FakeHub, tmp_path: Path) -> None:
    settings = {"dtype": "float16"}
    with opened(hub, tmp_path) as client:
        pickled = client.estimate(PICKLE, ["full", "lora"], settings=settings)
    with opened(hub, tmp_path, allow_conversion_pr=True) as client:
        converted = client.estimate(PICKLE, ["full", "lora"], settings=settings)
    assert pickled.parameters == converted.parameters
    assert pickled.estimates == converted.estimates
    assert any("nothing was unpickled" in w for w in pickled.warnings)
    assert any("refs/pr/19" in w for w in converted.warnings)
    with opened(hub, tmp_path) as client:
        again = client.estimate(PICKLE, ["full", "lora"], settings=settings)
    assert any("nothing was unpickled" in w for w in again.warnings), "unreviewed content is not what the cache gives"


def test_a_conversion_is_kept_by_content(hub: FakeHub, tmp_path: Path) -> None:
    with opened(hub, tmp_path, allow_conversion_pr=True) as client:
        first = client.inspect(PICKLE)
    hub.log.clear()
    with opened(hub, tmp_path, allow_conversion_pr=True) as client:
        again = client.inspect(PICKLE)
    assert len(hub.log) == 3, "the repo, its pull requests, the one pull request"
    assert not hub.requests("/resolve/")
    assert again.parameters == first.parameters
    with opened(hub, tmp_path) as client:
        assert client.inspect(PICKLE).commit_sha == repo(hub, PICKLE).revisions["main"].sha


def test_an_empty_repo(hub: FakeHub, client: Client) -> None:
    found = repo(hub, SMALL)
    main = found.revisions["main"]
    readme = Content(b"soon", 4)
    found.revisions["main"] = Revision(main.sha, {"README.md": readme, ".gitattributes": readme}, frozenset())
    with pytest.raises(NoSafetensorsError, match="holds no weights at all"):
        client.estimate(SMALL)
    assert len(hub.log) == 1


def test_a_pickle_on_a_server_that_ignores_ranges_is_not_downloaded(hub: FakeHub, client: Client) -> None:
    from hubvram.errors import NetworkError

    hub.ignore_range(r"\.bin")
    with pytest.raises(NetworkError, match="ignores ranges"):
        client.inspect(PICKLE)
    assert sum(r.sent for r in hub.requests(r"\.bin")) < 60e6


# -- what users may not read -------------------------------------------------------------


def summarised(hub: FakeHub, value: Any) -> None:
    def bent(answer, _request):
        content = json.loads(b"".join(answer.chunks()))
        content |= {"safetensors": value, "config": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}}
        body = json.dumps(content).encode()
        return answer._replace(body=Content(body, len(body)))

    hub.bend(f"/api/models/{GATED}", bent)


def test_a_gated_repo_is_estimated_from_what_everybody_may_see(hub: FakeHub, tmp_path: Path) -> None:
    summarised(hub, {"parameters": {"BF16": 1_235_814_400}, "total": 1_235_814_400})
    with opened(hub, tmp_path, token=False) as client:
        report = client.estimate(GATED, ["full", "lora", "inference"])
        assert report.error is not None
        assert report.error["code"] == "gated"
        assert "hf auth login" in report.error["hint"]
        assert report.to_dict()["error"]["code"] == "gated"
        assert statuses(report) == {"full": "partial", "lora": "skipped", "inference": "partial"}
        full, _, inference = report.estimates
        # bf16 weights, gradients, two moments; the weights alone.
        assert full.breakdown is not None
        assert full.breakdown.weights_bytes == full.breakdown.gradients_bytes == 2 * 1_235_814_400
        assert inference.breakdown is not None
        assert inference.breakdown.weights_bytes == 2 * 1_235_814_400
        assert (report.model_type, report.parameters.total) == ("llama", 1_235_814_400)
    with opened(hub, tmp_path) as client:
        exact = client.estimate(GATED, ["lora"])
        assert exact.error is None
        assert statuses(exact) == {"lora": "ok"}
        assert exact.source == "hub", "the coarse answer was not kept"


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        {},
        {"parameters": {}},
        {"parameters": {"BF16": -1}},
        {"parameters": {"\x1b": 1}},
        {"parameters": {"BF16": 2**70}},
        {"parameters": {"BF16": 1.5}},
    ],
)
def test_a_gated_repo_without_usable_counts_is_an_error(hub: FakeHub, tmp_path: Path, value: Any) -> None:
    from hubvram.errors import GatedRepoError

    summarised(hub, value)
    with opened(hub, tmp_path, token=False) as client, pytest.raises(GatedRepoError):
        client.estimate(GATED, ["full"])


# -- folders, and the Hub client's own cache -----------------------------------------------


def hub_cache(fixtures: Path, repo_id: str, folder: Path, skip: str = "\0") -> str:
    """The fixture as huggingface_hub keeps it: blobs, links to them, refs."""
    revision = load_repo(fixtures / repo_id, repo_id).revisions["main"]
    root = folder / f"models--{repo_id.replace('/', '--')}"
    for path, content in revision.files.items():
        if path == skip or not path.endswith((".safetensors", ".json")):
            continue
        blob = root / "blobs" / content.etag
        blob.parent.mkdir(parents=True, exist_ok=True)
        with blob.open("wb") as file:
            file.write(content.head)
            file.truncate(content.size)
        link = root / "snapshots" / revision.sha / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision.sha)
    return revision.sha


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
@pytest.mark.parametrize("name", [SMALL, MISTRAL])
def test_offline_the_hub_clients_cache_answers(
    fake_hub: FakeHub, fixtures_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    cache = tmp_path / "hf" / ("hub" if variable == "HF_HOME" else "")
    sha = hub_cache(fixtures_dir, name, cache)
    monkeypatch.setenv(variable, str(tmp_path / "hf"))
    with opened(fake_hub, tmp_path, offline=True) as client:
        report = client.estimate(name, ["lora"])
        at_commit = client.estimate(f"{name}@{sha}", ["lora"])
    assert not fake_hub.log
    assert (report.repo_id, report.commit_sha, report.source, report.requested_revision) == (name, sha, "local", "main")
    assert at_commit.estimates == report.estimates
    with opened(fake_hub, tmp_path) as client:
        online = client.estimate(name, ["lora"])
    assert online.estimates == report.estimates
    assert online.source == "hub"


def test_offline_with_a_part_of_the_repo(
    fake_hub: FakeHub, fixtures_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(fixtures_dir, MISTRAL, tmp_path / "hub", skip="model-00002-of-00002.safetensors")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with opened(fake_hub, tmp_path, offline=True) as client:
        with pytest.raises(OfflineError, match="only in part"):
            client.estimate(MISTRAL)
        with pytest.raises(OfflineError, match="not in the cache"):
            client.estimate(SMALL)
        with pytest.raises(OfflineError, match="not in the cache"):
            client.estimate(f"{MISTRAL}@other")


def test_a_folder_with_an_adapter_and_its_base_beside_it(fake_hub: FakeHub, fixtures_dir: Path, tmp_path: Path) -> None:
    for name, target in ((LORA, "adapter"), (MISTRAL, "base")):
        for path, content in load_repo(fixtures_dir / name, name).revisions["main"].files.items():
            if path.endswith((".safetensors", ".json")):
                file = tmp_path / target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as handle:
                    handle.write(content.head)
                    handle.truncate(content.size)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    with opened(fake_hub, tmp_path, offline=True) as client:
        report = client.estimate(str(tmp_path / "adapter"), ["lora"])
    assert statuses(report) == {"lora": "ok"}
    assert not fake_hub.log
    shutil.rmtree(tmp_path / "base")


def test_a_gated_repo_on_the_command_line(
    fake_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lower bounds on stdout, why they are no more on stderr, and the exit code of a gated repo."""
    from hubvram.cli.main import run

    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    monkeypatch.setenv("HUBVRAM_DB", str(tmp_path / "x.db"))
    summarised(fake_hub, {"parameters": {"BF16": 1_235_814_400}, "total": 1_235_814_400})
    for command in ("estimate", "inspect"):
        assert run([command, GATED, "--no-token"]) == 4
        out, err = capsys.readouterr()
        assert "1,235,814,400" in out
        assert [line.split(":")[0] for line in err.splitlines()] == ["Warning", "Error", "Hint"]
        assert run([command, GATED, "--no-token", "--json", "-q"]) == 4
        out, err = capsys.readouterr()
        assert json.loads(out)["parameters"]["total"] == 1_235_814_400
        assert "gated" in err
    assert run(["estimate", GATED, SMALL, "--no-token", "-m", "full", "--format", "ndjson", "-q"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("error", {}).get("code") for line in lines] == ["gated", None]


@pytest.mark.parametrize("command", ["estimate", "inspect"])
def test_a_file_on_the_command_line(
    fake_hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    from hubvram.cli.main import run

    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    monkeypatch.setenv("HUBVRAM_DB", str(tmp_path / "x.db"))
    monkeypatch.setenv("HF_TOKEN", GRANTED)
    name = "mistralai/Mistral-7B-Instruct-v0.3"
    assert run([command, name, "--file", "consolidated.safetensors", "--json", "-q"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parameters"]["total"] == 7_248_023_552
    assert run([command, name, "--variant", "fp16"]) == 3
    assert "no variant 'fp16'" in capsys.readouterr().err
