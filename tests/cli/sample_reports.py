"""A small report made by hand, for the tests of formats."""

from __future__ import annotations

from hubvram.gpus import fits, resolve
from hubvram.report.record import AliveGroup, Breakdown, Estimate, Mark, ParameterCounts, Report

GIB = 2**30


def sample_report(repo_id: str = "org/tiny", gpus: tuple[str, ...] = ()) -> Report:
    """Two methods with figures, one partial, one skipped."""
    cards = resolve(gpus)

    def estimate(method: str, total: int, **changes: object) -> Estimate:
        fields: dict[str, object] = {
            "method": method,
            "status": "ok",
            "trainable_parameters": 1_000_000,
            "peak_allocated_bytes": 15 * GIB,
            "peak_reserved_bytes": 16 * GIB,
            "total_bytes": total,
            "peak_phase": "backward",
            "breakdown": Breakdown(5 * GIB, 4 * GIB, 3 * GIB, 2 * GIB, 1 * GIB),
            "loaded_bytes": 5 * GIB,
            "steady_bytes": 8 * GIB,
            "gpus": fits(total, cards),
            "marks": (Mark("load", "weights", 5 * GIB), Mark("backward", "loss", 15 * GIB)),
            "alive": (
                AliveGroup("weights", "layers.mlp", "linear", 32, (4096, 4096), "bfloat16", 5 * GIB, "a weight"),
            ),
        }
        return Estimate(**(fields | changes))  # type: ignore[arg-type]

    return Report(
        repo_id=repo_id,
        requested_revision="main",
        commit_sha="0123456789abcdef0123456789abcdef01234567",
        endpoint="http://127.0.0.1:1",
        source="hub",
        model_type="llama",
        architecture="LlamaForCausalLM",
        parameters=ParameterCounts(7_241_732_096, {"BF16": 7_241_732_096}, 14_483_464_192, 7_241_732_096),
        settings={
            "batch_size": 1,
            "seq_len": 2048,
            "dtype": "bfloat16",
            "mixed_precision": "no",
            "optim": "adamw_torch_fused",
            "gradient_checkpointing": True,
            "attn_implementation": "sdpa",
            "num_gpus": 1,
        },
        estimates=(
            estimate("full", 17 * GIB),
            estimate("lora", 100 * GIB, status="partial", reason="lower bound", not_counted=("the tower",)),
            Estimate("oft", "skipped", reason="the model has no linear layer of that kind"),
        ),
        warnings=(),
    )
