"""Models are built by name from what a checkpoint carries."""

import json

import pytest
import torch

from models import MODELS, build_model, model_class
from models.late_fusion import LateFusionClassifier

TRUNK = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "padding": "tensorflow", "input_size": (64, 96)}


def test_config_that_went_through_json_builds_the_same_model():
    model = LateFusionClassifier(3, 13, sound_size=5, dropout=0.1, trunk=TRUNK)
    twin = build_model(json.loads(json.dumps(model.config)))
    assert twin.config == model.config
    twin.load_state_dict(model.state_dict())
    assert all(map(torch.equal, twin.state_dict().values(), model.state_dict().values()))


def test_config_is_left_as_it_was():
    config = LateFusionClassifier(2, 8).config
    before = json.dumps(config)
    build_model(config)
    assert json.dumps(config) == before


@pytest.mark.parametrize("name", MODELS)
def test_config_names_its_model(name):
    assert model_class(name)(2, 8).config["name"] == name


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'resnet': this version knows late_fusion"):
        build_model({"name": "resnet"})
