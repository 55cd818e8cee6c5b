"""What of a timm model trains: blocks counted by hand, norms, steps from which on all of it does, BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.core.network import Network
from metriclab.encoders.freezing import blocks_of
from metriclab.encoders.timm import TimmEncoder
from metriclab.errors import RecipeError
from metriclab.heads import LinearHead
from metriclab.optimizers import LARS, SGD, AdamW
from metriclab.registry import load_component
from metriclab.testing import Share, on_ranks, two_ranks
from metriclab.training.fit import fit
from metriclab.training.interruption import Interrupted
from tests.support.tiny import outcome, run, tiny


def by_hand(name: str) -> tuple[str, ...] | None:
    """The block of a parameter by its name, for the four families; None for what belongs to the block before it."""
    parts = name.split(".")
    if parts[0].startswith("layer"):  # ResNets: layer3.0.conv1.weight
        return (parts[0], parts[1])
    if parts[0] == "blocks":  # ViTs have numbered blocks, EfficientNets stages of them
        return tuple(parts[:3]) if parts[2].isdigit() else tuple(parts[:2])
    if parts[0] == "stages":  # ConvNeXts: stages.3.blocks.2.norm.weight, with a downsampling before the first block
        return ("stages", parts[1], parts[3] if parts[2] == "blocks" else "0")
    return None if parts[0] in ("norm", "fc_norm", "head", "conv_head", "bn2") else ("stem",)


MODELS = ["resnet18", "resnet50", "convnext_tiny", "vit_small_patch16_224", "efficientnet_b0", "tf_efficientnet_lite0"]
TINY_MODELS = ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"]


def on_meta(model: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(model, num_classes=0)


@pytest.mark.parametrize("model", MODELS + TINY_MODELS)
def test_blocks_are_those_that_one_counts_by_hand(model: str):
    network = on_meta(model)
    expected: dict[tuple[str, ...], set[str]] = {("stem",): set()}
    for name, _ in network.named_parameters():
        block = by_hand(name)
        if block is not None:
            expected.setdefault(block, set()).add(name)
    last = list(expected)[-1]
    expected[last] |= {name for name, _ in network.named_parameters() if by_hand(name) is None}
    blocks = blocks_of(network, model, "key")
    assert {frozenset(block) for block in blocks} == {frozenset(block) for block in expected.values()}
    assert set(blocks[0]) == expected["stem",]
    assert set(blocks[-1]) == expected[last]


def trained_names(encoder: TimmEncoder) -> set[str]:
    return {name for name, parameter in encoder.model.named_parameters() if parameter.requires_grad}


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def train_one_step(encoder: TimmEncoder) -> dict[str, torch.Tensor]:
    """One step of AdamW, which moves all that has a gradient; the state before it."""
    network = Network(encoder, LinearHead(encoder.out_features, embedding_dim=8)).train()
    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    optimizer = AdamW({"network": network})
    network(images()).z.square().sum().backward()
    optimizer.step()
    return before


@pytest.mark.parametrize("model", TINY_MODELS)
def test_the_last_blocks_train_and_nothing_below_them_has_a_graph(model: str):
    encoder = TimmEncoder(model=model, trainable="last:2")
    blocks = blocks_of(encoder.model, model, "key")
    assert trained_names(encoder) == {name for block in blocks[-2:] for name in block}
    inputs: list[torch.Tensor] = []
    first = encoder.model.get_submodule(blocks[-2][0].rpartition(".")[0])
    first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    before = train_one_step(encoder)
    assert not inputs[0].requires_grad  # of the first layer of these blocks
    assert all(encoder.model.get_parameter(name).grad is None for block in blocks[:-2] for name in block)
    frozen = [name for name in before if not any(_layer(name) == _layer(one) for one in trained_names(encoder))]
    assert all(torch.equal(before[name], encoder.model.state_dict()[name]) for name in frozen)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


@pytest.mark.parametrize("model", [*TINY_MODELS, "test_mambaout"])
def test_norms_alone_train(model: str):
    encoder = TimmEncoder(model=model, trainable="norms")
    kinds = {type(encoder.model.get_submodule(_layer(name))).__name__ for name in trained_names(encoder)}
    assert kinds
    assert all("Norm" in kind for kind in kinds)
    others = set(dict(encoder.model.named_parameters())) - trained_names(encoder)
    assert not any("Norm" in type(encoder.model.get_submodule(_layer(name))).__name__ for name in others)


def test_a_model_whose_norms_have_nothing_to_train_is_told():
    with pytest.raises(RecipeError) as caught:
        TimmEncoder(model="vgg11", trainable="norms")
    assert str(caught.value) == (
        "encoder.trainable = \"norms\" leaves nothing to train: the norms of 'vgg11' have no scale and no shift\n"
        '  help: set encoder.trainable = "all", "none" or "last:N"'
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"model": "resnet18", "trainable": "last:99"},
            "encoder.trainable = \"last:99\": 'resnet18' has 9 blocks, the stem included\n"
            '  help: set encoder.trainable = "all", or "last:N" with a smaller N',
        ),
        (
            {"model": "poolformer_s12", "trainable": "last:1"},
            "encoder.trainable = \"last:1\" counts blocks by timm's group_matcher, and 'poolformer_s12' has none\n"
            "  help: leave it out, or name another model",
        ),
        (
            {"model": "test_resnet", "unfreeze_at": 3},
            'encoder.unfreeze_at = 3 has nothing to unfreeze: encoder.trainable = "all"\n'
            '  help: set encoder.trainable = "none", "norms" or "last:N" for the steps before it, or leave it out',
        ),
    ],
)
def test_what_a_model_cannot_train_is_told_by_its_key(settings, text: str):
    with pytest.raises(RecipeError) as caught:
        TimmEncoder(**settings)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "resnet18", "trainable": "last:99"},
        {"model": "resnet18", "unfreeze_at": 9},
        {"model": "vgg11", "gradient_checkpointing": True},
    ],
)
def test_it_is_told_before_weights_are_fetched(settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: pytest.fail("it fetches"))
    with pytest.raises(RecipeError, match=r"has 9 blocks|has nothing to unfreeze|has no gradient_checkpointing"):
        TimmEncoder(pretrained=True, **settings)


@pytest.mark.parametrize("value", ["last:0", "last:", "last:2x", "last", "first:2", "last:-1"])
def test_other_words_are_refused_as_a_recipe_does(value: str):
    _, problems = load_component("encoder", "timm").check({"model": "resnet18", "trainable": value})
    assert problems[0].message == (
        f'trainable of encoder \'timm\' must be "all" | "none" | "norms" | "last:N", not "{value}"'
    )


def test_frozen_blocks_stand_still_and_the_others_do_not():
    encoder = TimmEncoder(model="test_vit", trainable="last:2").train()
    assert [block.training for block in encoder.model.blocks] == [False] * 4 + [True] * 2
    assert not encoder.model.patch_embed.training
    assert all(block.training for block in TimmEncoder(model="test_vit", trainable="norms").train().model.blocks)
    moving = TimmEncoder(model="test_vit", trainable="last:2", frozen_mode="train").train()
    assert all(block.training for block in moving.model.blocks)


def weights_file(folder: Path, model: str = "test_resnet") -> str:
    torch.save(timm.create_model(model).state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth")


def statistics_move(encoder: TimmEncoder) -> bool:
    before = train_one_step(encoder)
    return not torch.equal(before["bn1.running_mean"], encoder.model.state_dict()["bn1.running_mean"])


def test_statistics_of_trained_weights_stay_unless_asked_otherwise(tmp_path: Path):
    weights = weights_file(tmp_path)
    default = TimmEncoder(model="test_resnet", weights=weights)
    assert str(default.note).endswith(
        "; BatchNorm keeps the statistics of the weights it starts from; encoder.freeze_batch_norm = false trains them"
    )
    assert not statistics_move(default)
    assert statistics_move(TimmEncoder(model="test_resnet", weights=weights, freeze_batch_norm=False))
    assert statistics_move(TimmEncoder(model="test_resnet"))
    assert TimmEncoder(model="test_resnet").note is None
    assert "BatchNorm" not in str(TimmEncoder(model="test_resnet", weights=weights, trainable="none").note)
    of_layer_norm = TimmEncoder(model="test_vit", weights=weights_file(tmp_path, "test_vit"))
    assert "BatchNorm" not in str(of_layer_norm.note)


def test_norms_train_their_scale_with_statistics_that_stay(tmp_path: Path):
    encoder = TimmEncoder(model="test_resnet", trainable="norms", weights=weights_file(tmp_path))
    assert "bn1.weight" in trained_names(encoder)
    before = train_one_step(encoder)
    after = encoder.model.state_dict()
    assert torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    assert not torch.equal(before["bn1.weight"], after["bn1.weight"])


def test_a_recipe_fixes_the_default_so_that_a_run_without_its_weights_keeps_it():
    timm_encoder = load_component("encoder", "timm")

    def fixed(**values: object) -> object:
        return timm_encoder.check({"model": "resnet18", **values})[0]["freeze_batch_norm"]

    assert [fixed(), fixed(pretrained=True), fixed(weights="w.pth")] == [False, True, True]
    assert [fixed(pretrained=True, freeze_batch_norm=False), fixed(freeze_batch_norm=True)] == [False, True]


HEAD_FIRST = ("encoder.trainable=none", "encoder.unfreeze_at=3", "train.steps=5")


def test_the_head_learns_first_and_then_all_of_it(tmp_path: Path):
    recipe = tiny(tmp_path, *HEAD_FIRST)
    training = assemble(recipe, load_splits(recipe).train)
    encoder = training.method.get_submodule("network.encoder")
    parameters = set(encoder.parameters())
    first = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    for step in fit(training):
        moved = [name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, first[name])]
        assert bool(moved) == (step.done > 3)
        assert bool(parameters & set(training.optimizer.state)) == (step.done > 3)
        assert encoder.training == (step.done > 3)
    assert "model.bn1.running_mean" in moved


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_what_trains_later_has_no_state_before_and_starts_as_if_new(optimizer: str, tmp_path: Path):
    recipe = tiny(
        tmp_path, "encoder.trainable=last:1", "encoder.unfreeze_at=1", "train.steps=2", f"optimizer.name={optimizer}"
    )
    training = assemble(recipe, load_splits(recipe).train)
    parts = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    assert len(parts) == len(set(parts)) == len(list(training.method.parameters()))
    stem = training.method.get_parameter("network.encoder.model.conv1.0.weight")
    states = [len(training.optimizer.state.get(stem, ())) for _ in fit(training)]
    assert states[0] == 0 < states[1]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_that_is_stopped_on_either_side_of_it_ends_equal(stop: int, tmp_path: Path):
    recipe = tiny(tmp_path, *HEAD_FIRST, "optimizer.name=adamw", "optimizer.layer_decay=0.5")
    run(recipe, tmp_path / "whole")
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", stop=lambda: next(asked) >= stop)
    run(recipe, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_nothing_that_trains_at_first_is_told(tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        run(tiny(tmp_path, *HEAD_FIRST, "head.name=none"), tmp_path / "run")
    assert str(caught.value) == (
        "--set encoder.trainable=none: nothing trains in the first steps: the encoder is frozen, and neither head nor "
        "loss has parameters\n       | --set encoder.trainable=none\n       |                         "
        '^ help: set encoder.trainable = "all", or name a head with parameters'
    )
    assert not (tmp_path / "run").exists()


def test_a_step_beyond_the_run_is_told(tmp_path: Path):
    recipe = tiny(tmp_path, "encoder.trainable=none", "encoder.unfreeze_at=9", "train.steps=2")
    messages = [status.message for status in run(recipe, tmp_path / "run")]
    assert (
        "encoder.unfreeze_at = 9 is not reached in a run of 2 steps: the rest of the encoder never trains; lower it, "
        "or train longer"
    ) in messages


def trained(share: Share, folder: Path, *options: str) -> dict[str, torch.Tensor]:
    """The state after a few steps in float64, of which each rank does its share."""
    recipe = tiny(folder / str(share.rank), *options)
    training = assemble(recipe, load_splits(recipe).train)
    training.method.double()
    for _ in fit(training):
        pass
    return {name: tensor for name, tensor in training.method.state_dict().items() if tensor.is_floating_point()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [HEAD_FIRST, ("encoder.trainable=last:2", "optimizer.layer_decay=0.5", "train.steps=3")],
    ids=["unfreeze_at", "last"],
)
def test_several_ranks_are_one(options: tuple[str, ...], tmp_path: Path):
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
    two_ranks(trained, tmp_path, *options)


@pytest.mark.slow
def test_ranks_average_the_gradients_of_what_trains_alone(tmp_path: Path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    for found in on_ranks(reduced, 2, tmp_path, "last:1"):
        # One number more for each parameter: whether this rank has a gradient for it.
        assert found["reduced"] == found["trained"] + found["tensors"] < found["all"]


def reduced(share: Share, folder: Path, trainable: str) -> dict[str, int]:
    """How many numbers the ranks average in a step, and how many parameters train."""
    import torch.distributed as dist

    recipe = tiny(folder / str(share.rank), f"encoder.trainable={trainable}", "train.steps=1")
    training = assemble(recipe, load_splits(recipe).train)
    sizes: list[int] = []
    all_reduce, here = dist.all_reduce, []

    def counted(tensor: torch.Tensor, *args: object, **options: object) -> object:
        sizes.append(tensor.numel())
        return all_reduce(tensor, *args, **options)

    dist.all_reduce = counted
    try:
        for _ in fit(training):
            here.append(max(sizes))
    finally:
        dist.all_reduce = all_reduce
    everything = list(training.method.parameters())
    ours = [parameter.numel() for parameter in everything if parameter.requires_grad]
    total = sum(parameter.numel() for parameter in everything)
    return {"reduced": here[0], "trained": sum(ours), "tensors": len(ours), "all": total}


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("make", [SGD, AdamW, LARS])
def test_rates_fall_as_timm_s_do(make: Callable[..., torch.optim.Optimizer], model: str):
    encoder = TimmEncoder(model=model)
    scale = {
        parameter: group["lr_scale"]
        for group in param_groups_layer_decay(encoder.model, layer_decay=0.7)
        for parameter in group["params"]
    }
    head = LinearHead(8)
    optimizer = make({"encoder": encoder, "head": head}, learning_rate=0.5, groups={"encoder": 0.1}, layer_decay=0.7)
    rates = {parameter: group["initial_lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates.keys() == {*encoder.parameters(), *head.parameters()}
    for parameter, rate in rates.items():
        assert rate == pytest.approx(0.05 * scale[parameter] if parameter in scale else 0.5, rel=1e-12)
    # The rate that is logged is that of the first group: of the last block.
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.05)


def test_norms_behind_the_last_block_learn_as_fast_as_it():
    encoder = TimmEncoder(model="test_convnext")
    optimizer = SGD({"encoder": encoder}, learning_rate=1.0, layer_decay=0.5)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[encoder.model.head.norm.weight] == rates[encoder.model.stages[-1].blocks[-1].mlp.fc1.weight] == 1.0
    assert rates[encoder.model.stem[0].weight] == 0.5 ** (len(blocks_of(encoder.model, "test_convnext", "key")) - 1)


def test_rates_of_frozen_blocks_are_left_out():
    encoder = TimmEncoder(model="test_vit", trainable="last:2")
    optimizer = SGD({"encoder": encoder}, learning_rate=1.0, layer_decay=0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        (
            lambda: nn.Linear(2, 2),
            "optimizer.layer_decay = 0.7 needs an encoder that trains and tells its blocks\n"
            "  help: leave it out, or set optimizer.groups = {encoder = 0.1}",
        ),
        (
            lambda: TimmEncoder(model="test_resnet", trainable="none"),
            "optimizer.layer_decay = 0.7 needs an encoder that trains and tells its blocks\n"
            "  help: leave it out, or set optimizer.groups = {encoder = 0.1}",
        ),
        (
            lambda: TimmEncoder(model="poolformer_s12"),
            "optimizer.layer_decay counts blocks by timm's group_matcher, and 'poolformer_s12' has none\n"
            "  help: leave it out, or name another model",
        ),
    ],
)
def test_rates_cannot_fall_without_blocks(encoder: Callable[[], nn.Module], text: str):
    with pytest.raises(RecipeError) as caught:
        SGD({"encoder": encoder()}, layer_decay=0.7)
    assert str(caught.value) == text
