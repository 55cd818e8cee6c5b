"""Low-rank adapters for metriclab: a pretrained encoder is tuned by a few small matrices beside its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt, MinLen
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from metriclab.api import RecipeError, TableOf, build, keep_settings, register, show_settings

__all__ = ["TimmLoRA"]

_TARGETS = ["attn.qkv", "attn.proj"]


@register("encoder", "timm-lora")
class TimmLoRA(nn.Module):
    """Low-rank adapters in a frozen encoder (LoRA): beside a layer W of its own, B A x times alpha / rank is learned.

    The base is the encoder of another table, as a rule a pretrained ViT of `timm`. It stays in evaluation mode, dropout
    and BatchNorm included, and none of its own weights is trained; B begins at 0, so the first step begins with the
    base's features.

    Where the base's weights come from a file or are fetched, checkpoints hold the adapters alone, and the digest of the
    base, which has to be there again where a run is resumed or used; another base is refused. A base of random weights
    is saved whole. `load` merges the adapters into the base: what it gives computes as the base does.

    Paper: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022; by the library peft.

    Args:
        base: table of the encoder, [encoder.base], as [encoder] has it: name = "timm", model, pretrained, image_size.
            Its `weights` is a file; of a run, that of a checkpoint.
        rank: of the adapters.
        alpha: factor of the adapters, over the rank.
        dropout: of what the adapters are given, in training.
        targets: ends of the names of the linear layers or convolutions that get one; each has to match some.

    Raises:
        RecipeError: for a target that matches no layer, or one that can have no adapter.

    Example:
        >>> encoder = TimmLoRA(base={"name": "timm", "model": "test_vit"}, rank=4)
        >>> sum(p.numel() for p in encoder.parameters() if p.requires_grad)
        9216
    """

    extra_repr = show_settings
    base_digest: Tensor

    def __init__(
        self,
        *,
        base: Annotated[dict[str, object], TableOf("encoder")],
        rank: Annotated[int, Ge(1)] = 8,
        alpha: Annotated[float, Gt(0)] = 16.0,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        targets: Annotated[list[str], MinLen(1)] = _TARGETS,
    ) -> None:
        super().__init__()
        keep_settings(self, locals())
        from peft import LoraConfig, inject_adapter_in_model  # not for those who only list what there is: it takes long

        params = dict(base)
        frozen: Any = build("encoder", str(params.pop("name", "")), **params)
        frozen.requires_grad_(False)
        self.out_features: int = frozen.out_features
        self.note: str | None = getattr(frozen, "note", None)
        self.merged = False
        self.again = bool(params.get("pretrained") or params.get("weights"))
        self.register_buffer("base_digest", _digest(frozen))
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # peft says int, and divides by the rank
            lora_dropout=dropout,
            target_modules=_layers(frozen, targets),
        )
        self.base: nn.Module = inject_adapter_in_model(config, frozen)
        # Functions of the module, not methods: what is pickled and copied must not hold the original.
        self.register_state_dict_post_hook(_leave_out_base)  # type: ignore[no-untyped-call]  # torch has no types here
        self.register_load_state_dict_pre_hook(_fill_in_base)  # type: ignore[no-untyped-call]
        self.train()

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        features: Tensor = self.base(images)
        return features

    def train(self, mode: bool = True) -> TimmLoRA:
        super().train(mode)
        self.base.eval()
        for layer in self._adapted().values():
            layer.lora_dropout.train(mode)
        return self

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the adapters to the weights beside them, and takes them out; called where a finished run is loaded."""
        for name, layer in self._adapted().items():
            layer.merge()
            self.base.set_submodule(name, layer.get_base_layer())
        self.merged = True

    def _adapted(self) -> dict[str, Any]:
        from peft.tuners.lora import LoraLayer

        return {name: layer for name, layer in self.base.named_modules() if isinstance(layer, LoraLayer)}


def _layers(base: nn.Module, targets: list[str]) -> list[str]:
    """The names of the layers that the targets match."""
    named = dict(base.named_modules())
    able = [name for name, layer in named.items() if isinstance(layer, nn.Linear | nn.Conv2d)]
    ends = ", ".join(sorted({".".join(name.split(".")[-2:]) for name in able}))
    chosen: list[str] = []
    for target in targets:
        matching = [name for name in named if name == target or name.endswith(f".{target}")]
        fitting = [name for name in matching if name in able]
        if not fitting:
            other = next((f": {name} is a {type(named[name]).__name__}" for name in matching), "")
            raise RecipeError(
                f"encoder.targets has '{target}', and no layer of the base that can have an adapter ends so{other}",
                help=f"such layers, linear ones and convolutions, end in {ends}",
            )
        chosen += [name for name in fitting if name not in chosen]
    return chosen


def _digest(base: nn.Module) -> UInt8[Tensor, "32"]:
    """SHA-256 of the weights, by their names and bytes."""
    found = hashlib.sha256()
    for name, value in sorted(base.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def _is_of_base(key: str, prefix: str) -> bool:
    return key.startswith(f"{prefix}base.") and ".lora_" not in key


def _leave_out_base(module: TimmLoRA, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    """What is built again from the base's table is not saved; once merged, it is all there is."""
    if module.again and not module.merged:
        for key in [key for key in state if _is_of_base(key, prefix)]:
            del state[key]


def _fill_in_base(
    module: TimmLoRA,
    state: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Checks that a state without the base's weights is of adapters to this base."""
    own = module.base.state_dict(prefix=f"{prefix}base.")
    absent = {key: value for key, value in own.items() if _is_of_base(key, prefix) and key not in state}
    saved = state.get(f"{prefix}base_digest")
    if not absent or saved is None:
        return
    if not torch.equal(saved.cpu(), module.base_digest.cpu()):
        errors.append(
            "its adapters belong to a base of other weights than encoder.base has now: put the file back that it was "
            "trained with, or that version of the pretrained weights"
        )
    state.update(absent)
