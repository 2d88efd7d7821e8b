"""A checkpoint is a model with its recipe, and nothing in it is ever executed."""

import ast
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.late_fusion import LateFusionClassifier
from tests.trainings import fill_heads, fill_norms
from training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
)
from utils.audio import MfccSpec
from utils.features import FeatureSpec

ROOT = Path(__file__).resolve().parent.parent
SPEC = FeatureSpec(3.0, (48, 64), "fast", False, MfccSpec(n_mfcc=7))
RECIPE = {
    "classes": ["ads", "news", "games"],
    "feature_spec": SPEC.to_dict(),
    "clip_seconds": 7.5,
    "temperature": 1.25,
    "constants": {"FPS": 3.0},
    "data": {"train": {"ads": {"clips": 5}}},
    "metrics": {"accuracy": 0.9, "auc": None},
}


@pytest.fixture(scope="module")
def model() -> LateFusionClassifier:
    trunk = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "padding": "tensorflow"}
    model = LateFusionClassifier(3, 7, sound_size=5, trunk=trunk)
    fill_heads(model)
    fill_norms(model.video_encoder)
    return model


@pytest.fixture
def saved(tmp_path, model) -> Path:
    save_checkpoint(tmp_path / "best.safetensors", model, RECIPE)
    return tmp_path / "best.safetensors"


def change(path: Path, **changes: object) -> None:
    """Rewrites the file's metadata."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, **changes})


def test_loaded_model_answers_as_the_saved_one(saved, model):
    loaded = load_checkpoint(saved).model
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 48, 64, 3), dtype=torch.uint8, generator=generator)
    mfcc = torch.randn(2, 9, 7, generator=generator)
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 9, dtype=torch.bool)
    model.eval()
    assert not loaded.training
    with torch.inference_mode():
        expected = model(frames, masks[0], mfcc, masks[1])
        assert expected.std() > 0.01
        torch.testing.assert_close(loaded(frames, masks[0], mfcc, masks[1]), expected)


def test_recipe_travels_with_the_weights(saved, model):
    loaded = load_checkpoint(saved)
    assert loaded.classes == RECIPE["classes"]
    assert loaded.spec == SPEC
    assert (loaded.clip_seconds, loaded.temperature) == (7.5, 1.25)
    assert {name: loaded.recipe[name] for name in RECIPE} == json.loads(json.dumps(RECIPE))
    assert loaded.recipe["model"] == model.config
    assert loaded.recipe["versions"]["torch"].startswith(torch.__version__.partition("+")[0])


def test_file_is_read_by_safetensors_alone(saved, model):
    tensors = load_file(saved)
    assert tensors.keys() == model.state_dict().keys()
    with safe_open(saved, "pt") as file:
        assert json.loads(file.metadata()["recipe"])["classes"] == RECIPE["classes"]


SOURCES = [
    path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")]
    if path.parent.name not in ("tests", "benchmarks")
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_never_loads_a_pickle(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            name = ast.unparse(node.func)
            assert name not in ("pickle.load", "pickle.loads", "joblib.load"), path
            assert name != "torch.load" or said["weights_only"] == "True"
            assert said.get("allow_pickle", "False") == "False"


def test_save_that_fails_leaves_the_old_checkpoint(saved, model, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(saved, model, RECIPE)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def refusal(path: Path, load=load_checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("load", [load_checkpoint, load_state])
def test_missing_file_is_refused(tmp_path, load):
    assert "train first" in refusal(tmp_path / "none.safetensors", load)
    assert "train first" in refusal(tmp_path, load)


@pytest.mark.parametrize("load", [load_checkpoint, load_state])
@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_truncated_file_is_refused(saved, load, size):
    saved.write_bytes(saved.read_bytes()[:size])
    assert "damaged" in refusal(saved, load)


@pytest.mark.parametrize("load", [load_checkpoint, load_state])
def test_pickle_is_refused_and_not_executed(tmp_path, load):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "best.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    assert "damaged" in refusal(path, load)
    torch.save({"model": Bomb()}, path)
    assert "damaged" in refusal(path, load)
    assert not (tmp_path / "executed").exists()


def test_other_format_is_refused_and_named(saved):
    change(saved, format="ad-game-classifier/99")
    assert "'ad-game-classifier/99'" in refusal(saved)
    change(saved, format="no format of ours")
    refusal(saved)


def test_tensors_of_someone_else_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert "another version" in refusal(tmp_path / "a.safetensors")


def test_state_is_no_checkpoint_and_a_checkpoint_no_state(saved):
    refusal(saved, load_state)
    save_state(saved, {"a": 1})
    refusal(saved)


@pytest.mark.parametrize(
    "recipe",
    [
        "{",
        "[]",
        "null",
        json.dumps({"model": {"name": "unknown"}}),
        json.dumps({"model": {"name": "late_fusion", "sizes": 3}}),
        json.dumps({"model": {"name": "late_fusion", "num_classes": 2, "n_mfcc": 9}}),
        json.dumps({"model": ["late_fusion"]}),
    ],
)
def test_recipe_that_does_not_fit_is_refused(saved, recipe):
    change(saved, recipe=recipe)
    assert "train again" in refusal(saved)


@pytest.mark.parametrize("part", ["classes", "feature_spec", "clip_seconds", "temperature"])
def test_recipe_without_a_part_is_refused(saved, model, part):
    recipe = {name: value for name, value in RECIPE.items() if name != part}
    save_checkpoint(saved, model, recipe)
    assert part in refusal(saved)


@pytest.mark.parametrize("field", ["fps", "mfcc"])
def test_feature_spec_of_another_version_is_refused(saved, model, field):
    spec = {name: value for name, value in SPEC.to_dict().items() if name != field}
    save_checkpoint(saved, model, {**RECIPE, "feature_spec": spec})
    refusal(saved)
    save_checkpoint(saved, model, {**RECIPE, "feature_spec": {**SPEC.to_dict(), field: {"no": 1}}})
    refusal(saved)


def test_missing_tensor_is_refused(saved, model):
    tensors = load_file(saved)
    tensors.pop("no_sound")
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, saved, metadata)
    refusal(saved)


def same(a: object, b: object) -> bool:
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_state_comes_back_as_it_was(tmp_path):
    state = {
        "none": None,
        "numbers": [1, 2.5, True, float("inf")],
        "text": "é",
        "nested": {3: {"x": torch.arange(4), "empty": {}}, "list": [{"t": torch.tensor(2.0)}]},
        "pairs": {"tensor": "a name, not a tensor", "pairs": []},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "turned": torch.arange(6).view(2, 3).T,
    }
    save_state(tmp_path / "last.ckpt", state)
    assert same(state, load_state(tmp_path / "last.ckpt"))


def test_tensors_that_share_memory_are_saved(tmp_path):
    weights = torch.arange(6.0)
    save_state(tmp_path / "last.ckpt", {"model": weights, "best": weights, "part": weights[2:]})
    loaded = load_state(tmp_path / "last.ckpt")
    assert loaded["best"].equal(weights)
    assert loaded["part"].equal(weights[2:])


def test_optimizer_goes_on_from_a_loaded_state(tmp_path):
    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.arange(3.0)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": 0.1, "peak_lr": 0.1} for p in first.parameters()]
    )
    step(first, optimizer)
    save_state(
        tmp_path / "last.ckpt", {"model": first.state_dict(), "optimizer": optimizer.state_dict()}
    )
    state = load_state(tmp_path / "last.ckpt")
    second = torch.nn.Linear(3, 2)
    second.load_state_dict(state["model"])
    other = torch.optim.AdamW(
        [{"params": [p], "lr": 9.0, "peak_lr": 9.0} for p in second.parameters()]
    )
    other.load_state_dict(state["optimizer"])
    for _ in range(3):
        step(first, optimizer)
        step(second, other)
    assert first.weight.equal(second.weight)
    assert first.bias.equal(second.bias)
