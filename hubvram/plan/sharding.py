"""What one GPU of several holds: DDP, ZeRO stages 1 to 3, FSDP full shard.

Sources: torch 2.13 ``distributed/fsdp`` (FULL_SHARD, one unit per transformer
layer, BACKWARD_PRE prefetch), ``nn/parallel/distributed.py`` (buckets);
accelerate 1.15 (trainable parameters become fp32 when mixed precision is on);
DeepSpeed 0.15 ``runtime/zero`` with the bucket sizes that transformers'
``auto`` configuration sets.
"""

from __future__ import annotations

from dataclasses import dataclass

from hubvram.errors import SettingError
from hubvram.plan.settings import Settings

DEEPSPEED_BUCKET = 500_000_000
"""Elements of ``reduce_bucket_size`` and ``allgather_bucket_size`` (DeepSpeed's default)."""
DEEPSPEED_LIVE = 1_000_000_000
"""Elements that stage 3 keeps gathered at most (``stage3_max_live_parameters``)."""
NCCL_BYTES = 1536 * 2**20
"""What NCCL's communicators and buffers add to the context of each GPU (published readings: about 1.5 GiB)."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """Divisors per kind of memory, and what a strategy adds."""

    strategy: str
    gpus: int
    params: int = 1
    grads: int = 1
    states: int = 1
    upcast: bool = False
    """Trainable parameters and their gradients and states are fp32 although the model computes in 16 bits."""
    master: bool = False
    """DeepSpeed: fp32 copies of 16-bit trainable parameters beside the states."""
    offload: str = "none"

    @classmethod
    def of(cls, settings: Settings) -> Sharding:
        """The sharding that some settings mean.

        Raises:
            SettingError: an offload that the strategy does not have.
        """
        n, strategy = settings.num_gpus, settings.strategy
        if settings.offload != "none" and strategy == "ddp":
            raise SettingError(
                f"offload is {settings.offload!r} with strategy ddp: nothing is sharded, so nothing is offloaded.",
                hint="Use --strategy zero1, zero2, zero3 or fsdp.",
            )
        if settings.offload == "params" and strategy not in ("zero3", "fsdp"):
            raise SettingError(
                f"offload is 'params' with strategy {strategy}: parameters are offloaded by zero3 and fsdp only.",
                hint="Use --strategy zero3 or fsdp, or --offload optimizer.",
            )
        if n == 1 and not strategy.startswith("zero"):
            return cls("single", 1)
        mixed = settings.mixed_precision != "no"
        if strategy == "fsdp":
            return cls(strategy, n, n, n, n, upcast=mixed, offload=settings.offload)
        if strategy == "ddp":
            return cls(strategy, n, offload=settings.offload)
        stage = int(strategy[-1])
        return cls(
            strategy, n, n if stage == 3 else 1, n if stage >= 2 else 1, n, master=True, offload=settings.offload
        )

    @property
    def computes_in_half(self) -> bool:
        """Whether mixed precision runs the whole model in 16 bits instead of casting weight by weight.

        FSDP gathers units in ``param_dtype``, DeepSpeed's engine converts the model: no autocast copies.
        """
        return self.strategy == "fsdp" or self.strategy.startswith("zero")

    @property
    def states_on_gpu(self) -> bool:
        """Optimizer states; with ``--offload`` they, and the step itself, are on the host."""
        return self.offload == "none"

    @property
    def shards_on_gpu(self) -> bool:
        """Parameter shards; with ``--offload params`` they come to the GPU unit by unit."""
        return self.offload != "params"

    def keeps_inputs(self, all_trained: bool) -> bool:
        """Whether FSDP's hooks hold each checkpointed layer's input and its gradient until backward ends.

        For units whose parameters are frozen, torch's
        ``_register_post_backward_reshard_only_hook`` puts a multi-grad hook on
        the inputs of the recomputed forward; what it collects goes only with
        the hook, at the end of backward.
        """
        return self.strategy == "fsdp" and not all_trained

    def part(self, size: int, divisor: int) -> int:
        """The share of one GPU, rounded up."""
        return -(-size // divisor)

    def buffers(self, layer: int, root: int, trainable: int, element: int) -> list[tuple[str, int]]:
        """Named buffers that stand beside the shards during forward and backward, in bytes.

        Args:
            layer: bytes of the largest layer, whole, in the compute dtype.
            root: bytes of everything outside the layers, whole.
            trainable: trainable parameters of the whole model.
            element: bytes per gradient element.
        """
        if self.strategy == "single":
            return []
        if self.strategy == "fsdp":
            # the unit in use and the one prefetched; the root unit is not resharded after forward
            return [("FSDP gathered layers", 2 * layer), ("FSDP gathered root", root)]
        if self.strategy == "ddp":
            return [("DDP gradient buckets", trainable * element)]
        bucket = min(DEEPSPEED_BUCKET, trainable) * element
        if self.strategy == "zero3":
            gathered = min(2 * layer + root, DEEPSPEED_LIVE * element)
            return [("ZeRO-3 gathered parameters", gathered), ("ZeRO bucket", bucket)]
        return [("ZeRO reduce bucket", bucket)]
