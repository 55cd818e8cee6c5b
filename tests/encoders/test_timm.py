import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from metriclab.core.network import Network
from metriclab.distributed.batch_norm import synchronize_batch_norm
from metriclab.encoders.pixels import Pixels
from metriclab.encoders.timm import TimmEncoder
from metriclab.encoders.weights_file import read_weights
from metriclab.errors import DataError, RecipeError
from metriclab.heads import LinearHead
from tests.support.tiny import run, tiny

SMALL = ["test_convnext", "test_resnet", "test_vit", "test_efficientnet", "test_mambaout"]


def images(channels: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, channels, size, size, generator=generator)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def resnet(**settings) -> TimmEncoder:
    """With all scales at one: timm starts some at zero, and no gradient passes those."""
    encoder = TimmEncoder(model="test_resnet", **settings)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    return encoder


def train_one_step(encoder: nn.Module) -> None:
    network = Network(encoder, LinearHead(encoder.out_features, embedding_dim=8)).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(images()).z.square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("model", SMALL)
def test_out_features_is_the_width_that_comes_out(model: str):
    encoder = TimmEncoder(model=model).eval()
    assert encoder(images()).shape == (4, encoder.out_features)


def test_width_is_measured_where_timm_names_another():
    encoder = TimmEncoder(model="test_mambaout")
    assert encoder.model.num_features == 64
    assert encoder.out_features == 256
    assert TimmEncoder(model="test_resnet", global_pool="catavgmax").out_features == 2 * 96


def test_untrained_weights_see_images_around_zero():
    encoder = TimmEncoder(model="test_resnet").eval()
    torch.testing.assert_close(encoder(images()), encoder.model(images() * 2 - 1))


def test_weights_bring_their_mean_and_deviation(tmp_path: Path):
    source = timm.create_model("test_efficientnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    encoder = TimmEncoder(model="test_efficientnet", weights=str(tmp_path / "weights.pth"))
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert encoder.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_one_channel_takes_the_mean_over_the_channels_of_its_weights(tmp_path: Path):
    torch.save(timm.create_model("test_efficientnet", in_chans=1).state_dict(), tmp_path / "grey.pt")
    encoder = TimmEncoder(model="test_efficientnet", in_chans=1, weights=str(tmp_path / "grey.pt")).eval()
    assert encoder.mean.flatten().tolist() == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    assert encoder(images(1)).shape == (4, 256)


def test_grey_images_are_repeated_over_colour():
    encoder = TimmEncoder(model="test_resnet").eval()
    grey = images(1)
    assert torch.equal(encoder(grey), encoder(torch.cat([grey] * 3, 1)))


@pytest.mark.parametrize("make", [lambda: TimmEncoder(model="test_resnet", in_chans=1), lambda: Pixels(in_chans=1)])
def test_colour_into_a_grey_encoder_is_refused(make):
    with pytest.raises(RecipeError, match=r"images have 3 channels and the encoder takes 1\n.*encoder.in_chans = 3"):
        make()(images(3))


def test_cifar_stem_keeps_the_resolution():
    plain, stem = TimmEncoder(model="resnet18"), TimmEncoder(model="resnet18", cifar_stem=True, in_chans=1)
    assert (plain.model.conv1.stride, plain.model.conv1.kernel_size) == ((2, 2), (7, 7))
    assert (stem.model.conv1.stride, stem.model.conv1.kernel_size) == ((1, 1), (3, 3))
    # Four times the resolution in both directions reaches the first stage.
    sizes = []
    for encoder in (plain, stem):
        encoder.model.layer1.register_forward_hook(lambda *args: sizes.append(args[2].shape[-1]))
        encoder.eval()(images(1, 32))
    assert sizes == [8, 32]


def test_cifar_stem_replaces_a_deep_stem():
    encoder = TimmEncoder(model="test_resnet", cifar_stem=True).eval()
    assert encoder(images()).shape == (4, 96)


def test_cifar_stem_is_for_resnets():
    with pytest.raises(RecipeError, match=r"cifar_stem is for ResNets, 'test_vit' is none\n.*leave out cifar_stem"):
        TimmEncoder(model="test_vit", cifar_stem=True)


def test_all_of_the_encoder_trains_by_default():
    encoder = resnet()
    before = state_of(encoder.model)
    train_one_step(encoder)
    after = encoder.model.state_dict()
    assert all(
        not torch.equal(before[name], after[name]) for name, p in encoder.model.named_parameters() if p.dim() > 1
    )
    assert not torch.equal(before["layer1.0.bn1.running_mean"], after["layer1.0.bn1.running_mean"])


@pytest.mark.parametrize(
    "settings", [{"trainable": "none"}, {"trainable": "none", "frozen_mode": "train", "freeze_batch_norm": True}]
)
def test_a_frozen_encoder_is_bit_identical_after_a_step(settings):
    encoder = resnet(**settings)
    before = state_of(encoder)
    train_one_step(encoder)
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_train_none_stays_in_evaluation_mode():
    network = Network(TimmEncoder(model="test_resnet", trainable="none"), LinearHead(96)).train()
    assert network.head.training
    assert not any(module.training for module in network.encoder.modules())


def test_train_head_moves_the_statistics_alone():
    encoder = resnet(trainable="none", frozen_mode="train")
    before = state_of(encoder)
    train_one_step(encoder)
    changed = {
        name.rpartition(".")[2]
        for name, tensor in encoder.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("prepare", [lambda module: module, synchronize_batch_norm], ids=["plain", "synchronised"])
def test_freeze_batch_norm_leaves_the_rest_training(prepare):
    encoder = prepare(resnet(freeze_batch_norm=True))
    before = state_of(encoder)
    train_one_step(encoder)
    for name, tensor in encoder.state_dict().items():
        batch_norm = ".bn" in name or "downsample.2" in name or name.startswith(("model.conv1.1", "model.conv1.4"))
        trainable = not batch_norm and name not in ("mean", "std")
        assert torch.equal(tensor, before[name]) != trainable, name
    assert encoder.train().model.layer1.training
    assert not encoder.model.bn1.training
    encoder.eval().train()
    assert not encoder.model.bn1.training


def test_weights_of_timm_load_without_their_classifier(tmp_path: Path):
    source = timm.create_model("test_convnext").eval()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    encoder = TimmEncoder(model="test_convnext", weights=str(tmp_path / "weights.safetensors")).eval()
    x = images()
    expected = source.forward_head(source.forward_features((x - encoder.mean) / encoder.std), pre_logits=True)
    assert torch.equal(encoder(x), expected)


def test_a_classifier_of_several_layers_is_left_out_whole(tmp_path: Path):
    torch.save(timm.create_model("levit_128s").state_dict(), tmp_path / "weights.pth")
    assert TimmEncoder(model="levit_128s", weights=str(tmp_path / "weights.pth")).out_features == 384


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_weights_are_found_in_their_wrappers(tmp_path: Path, wrap):
    source = timm.create_model("test_resnet", num_classes=0)
    parallel = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save(wrap(parallel), tmp_path / "weights.pth")
    encoder = TimmEncoder(model="test_resnet", weights=str(tmp_path / "weights.pth"))
    assert torch.equal(encoder.model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


def test_an_encoder_of_a_checkpoint_brings_its_own_normalisation(tmp_path: Path):
    network = Network(TimmEncoder(model="test_resnet", cifar_stem=True), LinearHead(96)).eval()
    checkpoint = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint["network.encoder.mean"] = torch.full((3, 1, 1), 0.25)
    save_file(checkpoint, tmp_path / "model.safetensors")
    encoder = TimmEncoder(model="test_resnet", cifar_stem=True, weights=str(tmp_path / "model.safetensors")).eval()
    network.encoder.mean.fill_(0.25)
    assert torch.equal(encoder(images()), network(images()).h)


def test_a_missing_weights_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.pth: no such file\n  help: set encoder\.weights"):
        TimmEncoder(model="test_resnet", weights=str(tmp_path / "gone.pth"))
    with pytest.raises(DataError, match="is a folder, not a weights file"):
        TimmEncoder(model="test_resnet", weights=str(tmp_path))


def test_weights_of_another_model_are_refused(tmp_path: Path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    expected = (
        r"vit\.pth: these are not the weights of this model \(\d+ missing: .*; \d+ unexpected: .*, \.\.\.\)\n.*model"
    )
    with pytest.raises(DataError, match=expected):
        TimmEncoder(model="test_resnet", weights=str(tmp_path / "vit.pth"))


def test_one_lost_tensor_is_enough_to_refuse(tmp_path: Path):
    state = timm.create_model("test_resnet").state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"\(1 missing: layer2\.0\.conv1\.weight; 0 unexpected\)"):
        TimmEncoder(model="test_resnet", weights=str(tmp_path / "weights.pth"))


def test_weights_of_another_shape_are_refused(tmp_path: Path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "colour.pth")
    expected = (
        r"colour\.pth: 'conv1\.0\.weight' has shape \(16, 3, 3, 3\), this model needs \(16, 1, 3, 3\)\n.*in_chans"
    )
    with pytest.raises(DataError, match=expected):
        TimmEncoder(model="test_resnet", in_chans=1, weights=str(tmp_path / "colour.pth"))


class Bomb:
    armed = True

    def __reduce__(self):
        return (setattr, (Bomb, "armed", False))


def test_pickled_code_is_not_run(tmp_path: Path):
    torch.save({"weight": torch.zeros(1), "bomb": Bomb()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for file in ("evil.pth", "plain.pt"):
        with pytest.raises(DataError, match=r"holds pickled objects \(setattr\), which could run code.*\n.*state_dict"):
            read_weights(tmp_path / file)
    assert Bomb.armed


@pytest.mark.parametrize("file", ["cut.pth", "cut.safetensors", "text.safetensors", "text.pth", "empty.pth"])
def test_damaged_files_are_named(tmp_path: Path, file: str):
    state = {"weight": torch.zeros(1000)}
    torch.save(state, tmp_path / "cut.pth")
    save_file(state, tmp_path / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1000])
    for name in ("text.safetensors", "text.pth"):
        (tmp_path / name).write_text("not weights at all")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(DataError, match=rf"{file}: .*(damaged)"):
        read_weights(tmp_path / file)


def test_files_without_weights_by_name_are_refused(tmp_path: Path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(DataError, match=r"list\.pth: holds no weights by name"):
        read_weights(tmp_path / "list.pth")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(DataError, match=r"weights\.h5: weights of unknown kind '\.h5'\n  help: give a \.safetensors"):
        read_weights(tmp_path / "weights.h5")


@pytest.mark.parametrize(
    ("model", "help"),
    [
        ("test_convnxt", "did you mean 'test_convnext'?"),
        ("resnet18.a1_ink", "did you mean 'resnet18.a1_in1k'?"),
        ("hf-hub:timm/resnet18", "timm.list_models() in Python lists all names"),
        ("local-dir:/etc", "timm.list_models() in Python lists all names"),
    ],
)
def test_unknown_models_get_a_suggestion(model: str, help: str):
    with pytest.raises(RecipeError) as caught:
        TimmEncoder(model=model)
    assert caught.value.message == f"timm has no model '{model}'"
    assert caught.value.help == help


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"model": "test_resnet", "pretrained": True, "weights": "w.pth"}, "pretrained and encoder.weights exclude"),
        ({"model": "test_resnet", "pretrained": True, "cifar_stem": True}, "cifar_stem replaces the first layer"),
        ({"model": "test_mambaout", "pretrained": True}, "timm has no pretrained weights for 'test_mambaout'"),
        ({"model": "test_convnext", "image_size": 32}, "'test_convnext' has no image_size.*\n.*leave out image_size"),
        (
            {"model": "test_vit", "global_pool": "best"},
            "cannot build 'test_vit' with in_chans = 3, global_pool = 'best'",
        ),
        ({"model": "test_vit", "global_pool": ""}, r"shape \(101, 64\), not one vector an image\n.*set global_pool"),
        ({"model": "test_maxvit", "image_size": 33}, "'test_maxvit'.*33"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, text: str):
    with pytest.raises(RecipeError, match=text):
        TimmEncoder(**settings)


def test_transformers_take_the_size_they_are_built_for():
    assert TimmEncoder(model="test_vit3", image_size=48).eval()(images(3, 48)).shape == (4, 96)
    assert TimmEncoder(model="test_vit3", image_size=(64, 32)).eval()(torch.rand(2, 3, 64, 32)).shape == (2, 96)
    with pytest.raises(RecipeError, match=r"built for 160 x 160 pixels, not 32 x 32.*\n.*encoder\.image_size = 32"):
        TimmEncoder(model="test_vit3").eval()(images())
    with pytest.raises(RecipeError, match=r"not 64 x 32: .*\n.*image_size = \[64, 32\]; where .*dynamic_image_size"):
        TimmEncoder(model="test_vit3").eval()(torch.rand(2, 3, 64, 32))


def test_a_transformer_of_dynamic_size_takes_every_size_of_its_patches():
    encoder = TimmEncoder(model="test_vit3", image_size=32, dynamic_image_size=True).eval()
    fixed = TimmEncoder(model="test_vit3", image_size=32).eval()
    fixed.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(images(3, 32)), fixed(images(3, 32)))
    assert encoder(torch.rand(2, 3, 64, 16)).shape == (2, 96)
    with pytest.raises(RecipeError, match=r"takes no 16 x 18 pixels: .*16.*\n.*multiples of its patches"):
        encoder(torch.rand(2, 3, 16, 18))
    with pytest.raises(RecipeError, match=r"'test_convnext' has no dynamic_image_size.*\n.*leave it out"):
        TimmEncoder(model="test_convnext", dynamic_image_size=True)


def test_the_help_for_a_transformer_and_several_sizes_leads_out(tmp_path: Path):
    options = [
        "encoder.model=test_vit3",
        "encoder.global_pool=avg",
        "views.name=multi-crop",
        "views.size=32",
        "views.small_size=16",
        "train.steps=1",
    ]
    with pytest.raises(RecipeError) as caught:
        run(tiny(tmp_path, *options, "encoder.image_size=32"), tmp_path / "fails")
    assert str(caught.value.help).endswith("encoder.dynamic_image_size = true")
    recipe = tiny(tmp_path, *options, "encoder.image_size=32", "encoder.dynamic_image_size=true")
    assert run(recipe, tmp_path / "runs")[-1].stage == "finished"


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    expected = (
        r"cannot fetch the pretrained weights of 'test_resnet': no route to host\n  help: run once .*weights = 'file'"
    )
    with pytest.raises(DataError, match=expected):
        TimmEncoder(model="test_resnet", pretrained=True)
    # Where the settings are at fault, they are blamed, and not the hub.
    with pytest.raises(RecipeError, match="global_pool = 'best'"):
        TimmEncoder(model="test_resnet", pretrained=True, global_pool="best")


def test_pretrained_weights_keep_their_normalisation(monkeypatch: pytest.MonkeyPatch):
    state = timm.create_model("test_efficientnet").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: dict(state))
    encoder = TimmEncoder(model="test_efficientnet", pretrained=True)
    assert torch.equal(encoder.model.conv_stem.weight, state["conv_stem.weight"])
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_encoders_work_under_bfloat16_and_float64():
    encoder = TimmEncoder(model="test_resnet").eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(images()).isfinite().all()
    assert encoder.double()(images().double()).dtype == torch.float64


def test_pixels_are_the_image_itself():
    x = images(3, 8)
    encoder = Pixels(size=8)
    assert encoder.out_features == 192
    assert torch.equal(encoder(x), x.reshape(4, 192))
    assert not list(encoder.parameters())
    assert encoder(images(1, 8)).shape == (4, 192)


def test_pixels_refuse_another_size():
    with pytest.raises(RecipeError, match=r"takes images of 32 x 32 pixels, not 8 x 8\n  help: set encoder.size = 8"):
        Pixels()(images(3, 8))
    with pytest.raises(RecipeError, match=r"not 8 x 9 pixels|set encoder\.size = \[8, 9\]"):
        Pixels()(torch.rand(1, 3, 8, 9))
    assert Pixels(size=(8, 9))(torch.rand(1, 3, 8, 9)).shape == (1, 216)
