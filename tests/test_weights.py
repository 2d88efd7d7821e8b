"""Weights fit or are refused in one line, are never executed, and say how to be fed."""

import http.client
import pickle
import socket
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import MobileNet_V2_Weights

from models.encoders import IMAGENET_MEAN, IMAGENET_STD, FrameEncoder
from tests.trainings import make_config
from training import weights
from training.weights import WeightsError, find_weights, load_weights, new_model, weights_for


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """What torchvision's file holds: the trunk, and a classifier that nobody needs."""
    torch.manual_seed(3)
    trunk = FrameEncoder().features.state_dict()
    trunk = {f"features.{name}": tensor.contiguous() for name, tensor in trunk.items()}
    return trunk | {"classifier.1.weight": torch.zeros(5, 1280), "classifier.1.bias": torch.ones(5)}


def trunk_equals(found: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found[k.removeprefix("features.")], v) for k, v in tensors.items())


def trunk_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t for name, t in tensors.items() if name.startswith("features.")}


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert f"--weights {path}" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_file_is_loaded_and_fed_as_torchvision_does_by_default(tmp_path, tensors, name):
    path = tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    loaded, note = find_weights(str(path))
    assert trunk_equals(loaded.tensors, trunk_of(tensors))
    assert (loaded.mean, loaded.std, loaded.padding) == (IMAGENET_MEAN, IMAGENET_STD, "torch")
    assert note == f"the file {name}"


def test_checkpoint_of_a_training_may_wrap_the_tensors(tmp_path, tensors):
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "w.pth")
    assert trunk_equals(load_weights(tmp_path / "w.pth").tensors, trunk_of(tensors))


def test_metadata_says_how_frames_are_fed_and_travels(tmp_path, tensors):
    fed = {"mean": "0.5, 0.4,0.3", "std": "0.2,0.3,0.4", "padding": "tensorflow"}
    save_file(tensors, tmp_path / "w.safetensors", fed)
    loaded = load_weights(tmp_path / "w.safetensors")
    model = new_model(make_config(tmp_path), 2, loaded)
    assert model.config["trunk"]["mean"] == [0.5, 0.4, 0.3]
    assert model.config["trunk"]["std"] == [0.2, 0.3, 0.4]
    assert model.config["trunk"]["padding"] == "tensorflow"
    assert trunk_equals(model.video_encoder.features.state_dict(), trunk_of(tensors))


def test_half_precision_is_loaded_as_single(tmp_path, tensors):
    half = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(half, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors").tensors
    assert {t.dtype for t in loaded.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(
        loaded["0.0.weight"], tensors["features.0.0.weight"], rtol=1e-3, atol=1e-4
    )


def test_tensors_that_the_trunk_does_not_have_are_left_out(tmp_path, tensors):
    more = {**tensors, "features.19.weight": torch.zeros(2)}
    save_file(more, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    new_model(make_config(tmp_path), 2, loaded)


def test_missing_file_is_refused(tmp_path):
    assert "auto, imagenet, none, or a file" in refusal(tmp_path / "none.pth")
    assert "auto, imagenet, none, or a file" in refusal(tmp_path)
    with pytest.raises(WeightsError, match="--weights imagnet is not a file"):
        find_weights("imagnet")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"a text\n", b"\x80", b"PK\x03\x04", b"\0" * 99, b"J\x01"]
)
def test_file_of_something_else_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_file_is_refused(tmp_path, tensors, name):
    path = tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-1000])
    refusal(path)


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickled_code_is_refused_and_not_executed(tmp_path, protocol):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"features.0.0.weight": Bomb()}, protocol))
    refusal(path)
    torch.save({"features.0.0.weight": Bomb()}, path)
    assert "no file of plain tensors" in refusal(path)
    path.rename(tmp_path / "w.safetensors")
    refusal(tmp_path / "w.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3), {"state_dict": 5}])
def test_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refusal(tmp_path / "w.pth")


def test_other_network_is_refused_with_the_first_tensor_that_differs(tmp_path, tensors):
    save_file({"layer1.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    assert "does not fit torchvision's mobilenet_v2" in refusal(tmp_path / "w.safetensors")
    wider = {**tensors, "features.1.conv.1.weight": torch.zeros(99, 32, 1, 1)}
    save_file(wider, tmp_path / "w.safetensors")
    assert "features.1.conv.1.weight" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "fed",
    [
        {"mean": "0.5,0.5"},
        {"mean": "grey"},
        {"std": "0.5,0.5,0"},
        {"std": "0.5,-1,0.5"},
        {"mean": "nan,0,0"},
        {"mean": "0,0,0,0"},
        {"std": "inf,1,1"},
        {"padding": "valid"},
    ],
)
def test_metadata_that_makes_no_sense_is_refused(tmp_path, tensors, fed):
    save_file(tensors, tmp_path / "w.safetensors", fed)
    name, value = next(iter(fed.items()))
    assert f"{name} = {value!r}" in refusal(tmp_path / "w.safetensors")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def fail(*arguments, **named):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("urllib.request.urlopen", fail)
    monkeypatch.setattr("torch.hub.urlopen", fail)


def test_without_network_auto_trains_from_scratch_and_says_so(no_network):
    found, note = find_weights("auto")
    assert found is None
    assert "could not be downloaded (Name or service not known)" in note


def test_without_network_imagenet_is_refused(no_network):
    with pytest.raises(WeightsError, match=r"ImageNet weights \(Name or service .*--weights auto"):
        find_weights("imagenet")


def test_network_without_a_trunk_never_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_download_imagenet", lambda: pytest.fail("asked"))
    config = make_config(tmp_path, model="lrcn", encoder="conv", weights="auto")
    assert weights_for(config) == (None, "none, the conv encoder learns from scratch")
    late_fusion = make_config(tmp_path, encoder="conv", weights="none")
    assert "--weights none" in weights_for(late_fusion)[1]


def test_lrcn_is_made_as_the_constants_say(tmp_path, tensors):
    save_file(tensors, tmp_path / "w.safetensors")
    sizes = {"sequence_frames": 5, "lstm_size": 7, "lstm_layers": 2, "average_over_time": False}
    config = make_config(tmp_path, model="lrcn", dropout=0.25, **sizes, fuse_sound=False)
    model = new_model(config, 4, load_weights(tmp_path / "w.safetensors"))
    assert model.config | sizes | {"name": "lrcn", "fuse_sound": False} == model.config
    assert (model.config["num_classes"], model.config["dropout"]) == (4, 0.25)
    assert trunk_equals(model.video_encoder.features.state_dict(), trunk_of(tensors))
    again = new_model(config, 4, load_weights(tmp_path / "w.safetensors"))
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    conv = new_model(make_config(tmp_path, model="lrcn", encoder="conv"), 4, None)
    assert conv.config["encoder"] == "conv"


def test_none_never_asks(monkeypatch):
    monkeypatch.setattr(weights, "_download_imagenet", lambda: pytest.fail("asked"))
    found, note = find_weights("none")
    assert found is None
    assert "--weights none" in note


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
        RuntimeError("invalid hash value\n(expected ...)"),
        EOFError("Ran out of input"),
        pickle.UnpicklingError("a proxy's page"),
    ],
)
def test_download_that_breaks_off_is_no_end_for_auto(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(weights, "_download_imagenet", fail)
    found, note = find_weights("auto")
    assert found is None
    assert "\n" not in note
    with pytest.raises(WeightsError) as caught:
        find_weights("imagenet")
    assert "\n" not in str(caught.value)


def test_download_has_a_time_limit_and_leaves_the_default_alone(no_network, monkeypatch):
    limits = []

    def fail(*arguments, **named):
        limits.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("x")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    before = socket.getdefaulttimeout()
    find_weights("auto")
    assert limits == [weights.CONNECT_SECONDS]
    assert socket.getdefaulttimeout() == before


def test_cached_imagenet_weights_are_used_without_a_network(no_network, monkeypatch, tensors):
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True)
    assert MobileNet_V2_Weights.IMAGENET1K_V1.url == weights.IMAGENET_URL
    name = Path(weights.IMAGENET_URL).name
    torch.save(tensors, folder / name)
    found, note = find_weights("imagenet")
    assert trunk_equals(found.tensors, trunk_of(tensors))
    assert "ImageNet" in note


def test_new_model_is_a_function_of_the_seed(tmp_path):
    def head(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed)
        return new_model(make_config(tmp_path, seed=seed), 2, None).state_dict()

    first, again, other = head(1), head(1), head(2)
    assert all(map(torch.equal, first.values(), again.values()))
    name = "video_encoder.features.0.0.weight"
    assert not first[name].equal(other[name])


def test_saved_trunk_of_the_tests_fits(trunk_file):
    assert load_file(trunk_file)["features.0.0.weight"].dtype == torch.float16
    assert load_weights(trunk_file).padding == "tensorflow"
