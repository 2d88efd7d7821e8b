"""Every constant of a script is a flag, checked before anything else happens."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest

from utils.config import CHOICES, LATER, RANGES, Config, ConfigError, read_options
from utils.resumption import ResumeError

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("cost_optimized_train.py", "train.py")
FIELDS = {field.name: field.type for field in dataclasses.fields(Config)}
OPTIONAL_NUMBER = float | None
NUMBERS = (int, float, OPTIONAL_NUMBER)


def constants(path: Path) -> dict:
    """What globals() of a training script holds, without importing torch."""
    tree = ast.parse(path.read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    return values | {"__file__": str(path), "__doc__": ast.get_docstring(tree)}


@pytest.fixture(params=SCRIPTS)
def script(request) -> dict:
    return constants(ROOT / request.param)


@pytest.fixture
def cheap() -> dict:
    return constants(ROOT / "cost_optimized_train.py")


def read(script: dict, *arguments: str) -> Config:
    return read_options(script, list(arguments)).config


def refusal(script: dict, *arguments: str) -> str:
    """The one line that refuses a command line."""
    with pytest.raises(ConfigError) as error:
        read_options(script, list(arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_constants_of_a_script_are_its_configuration(script):
    config = read(script)
    assert config.constants() == {
        name: value for name, value in script.items() if not name.startswith("__")
    }
    for name, kind in FIELDS.items():
        value = getattr(config, name)
        if kind == OPTIONAL_NUMBER:
            assert value is None or isinstance(value, float)
        else:
            plain = {tuple[int, int]: tuple, tuple[int, int] | str: (tuple, str)}
            assert isinstance(value, plain.get(kind, kind))


def test_named_presets_are_as_agreed():
    presets = ("BATCH_SIZE", "EPOCHS", "FPS", "FRAME_SIZE", "MFCC_N_MELS", "LEARNING_RATE")
    cheap, full = (read(constants(ROOT / name)).constants() for name in SCRIPTS)
    assert [cheap[name] for name in presets] == [8, 8, 4, (96, 96), 32, 2e-4]
    assert [full[name] for name in presets] == [2, 10, 6, (112, 112), 40, 1e-4]
    assert cheap["MIXED_PRECISION"]
    assert full["MIXED_PRECISION"]


def another(name: str, value: object) -> object:
    """A value that is accepted, and is not the one given."""
    if name in CHOICES:
        return next(choice for choice in CHOICES[name] if choice != value)
    if name in RANGES:
        lowest, highest = RANGES[name]
        return lowest if value != lowest else highest
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple) or name == "trunk_size":
        return (64, 72)
    return "3" if name in ("fine_tune_blocks", "folds") else "elsewhere"


@pytest.mark.parametrize("name", FIELDS)
def test_every_constant_is_a_flag_and_changes_nothing_else(cheap, name):
    # What constrains another constant leaves it room.
    cheap |= {"N_MFCC": 4, "MFCC_N_MELS": 128, "CLIP_HOP_SECONDS": 1.0, "CLIP_SECONDS": 600.0}
    before = read(cheap)
    value = another(name, getattr(before, name))
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    after = read(cheap, flag(name), text)
    assert getattr(after, name) == value
    if getattr(before, name) is not None:
        expected = tuple if name == "trunk_size" else type(getattr(before, name))
        assert type(getattr(after, name)) is expected
    assert dataclasses.replace(after, **{name: getattr(before, name)}) == before
    assert read(cheap, f"{flag(name)}={text}") == after


@pytest.mark.parametrize("name", RANGES)
def test_ends_of_a_range_are_accepted_and_what_lies_beyond_is_refused(cheap, name):
    cheap |= {"N_MFCC": 4, "MFCC_N_MELS": 256, "CLIP_HOP_SECONDS": 0.5, "CLIP_SECONDS": 600.0}
    for end, beyond in zip(RANGES[name], (-1, 1), strict=True):
        if (name, beyond) != ("clip_seconds", -1):
            assert getattr(read(cheap, flag(name), str(end)), name) == end
        outside = str(end + beyond if FIELDS[name] is int else end + beyond * 0.1)
        said = refusal(cheap, flag(name), outside)
        assert said.startswith(f"{flag(name)} lies between ")
        assert said.endswith(f"not {outside}")


def test_every_number_has_a_range():
    assert {name for name, kind in FIELDS.items() if kind in NUMBERS} == set(RANGES)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("epochs", "many", "a whole number"),
        ("epochs", "2.5", "a whole number"),
        ("epochs", "inf", "a whole number"),
        ("epochs", "nan", "a whole number"),
        ("epochs", "", "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("mixed_precision", "maybe", "true or false"),
        ("frame_size", "96,x", "height,width"),
        ("frame_size", "96,96,3", "height,width"),
        ("frame_size", "96.5,96", "height,width"),
        ("frame_size", "", "height,width"),
        ("trunk_size", "large", "auto or height,width"),
    ],
)
def test_value_of_the_wrong_type_is_refused_with_the_right_one(cheap, name, text, wanted):
    said = refusal(cheap, flag(name), text)
    assert said.startswith(f"{flag(name)} takes {wanted}")
    assert said.endswith(f"not {text!r}")


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("EPOCHS", "eight"),
        ("EPOCHS", 2.5),
        ("EPOCHS", True),
        ("EPOCHS", None),
        ("EPOCHS", 0),
        ("LEARNING_RATE", True),
        ("LEARNING_RATE", float("nan")),
        ("FRAME_SIZE", (96.5, 96)),
        ("FRAME_SIZE", (96, 96, 3)),
        ("FRAME_SIZE", 96),
        ("FRAMES", "ffmpeg"),
        ("FINE_TUNE_BLOCKS", 20),
        ("FINE_TUNE_BLOCKS", -1),
        ("MIXED_PRECISION", None),
    ],
)
def test_wrong_value_in_the_file_is_refused_like_one_on_the_command_line(cheap, constant, value):
    assert flag(constant.lower()) in refusal(cheap | {constant: value})


def test_learning_rate_that_is_no_number_is_refused(cheap):
    assert "lies between" in refusal(cheap, "--learning-rate", "nan")


@pytest.mark.parametrize("text", ["64,72", "64x72", "64 72", "(64, 72)"])
def test_frame_size_is_height_and_width(cheap, text):
    assert read(cheap, "--frame-size", text).frame_size == (64, 72)


def test_frame_size_of_one_number_is_a_square(cheap):
    assert read(cheap, "--frame-size", "64").frame_size == (64, 64)


def test_trunk_size_is_auto_or_a_size(cheap):
    assert read(cheap).trunk_size == "auto"
    assert read(cheap, "--trunk-size", "176").trunk_size == (176, 176)
    assert read(cheap, "--trunk-size", "176,200").trunk_size == (176, 200)
    assert "--trunk-size takes sides of 32" in refusal(cheap, "--trunk-size", "8,8")


@pytest.mark.parametrize("text", ["31,96", "96,1025", "0", "-96,96"])
def test_frame_size_out_of_range_is_refused(cheap, text):
    assert "--frame-size takes sides of 32 to 1024 pixels" in refusal(cheap, f"--frame-size={text}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("Yes", True), ("1", True), ("FALSE", False), ("no", False), ("0", False)],
)
def test_words_for_true_and_false(cheap, text, value):
    assert read(cheap, "--mixed-precision", text).mixed_precision is value


@pytest.mark.parametrize("value", ["auto", "0", "3", "19"])
def test_fine_tune_blocks_is_auto_or_a_count(cheap, value):
    assert read(cheap, "--fine-tune-blocks", value).fine_tune_blocks == value


@pytest.mark.parametrize("value", ["20", "-1", "all", "", "²", "1.0"])
def test_other_fine_tune_blocks_are_refused(cheap, value):
    assert "takes auto or 0 to 19" in refusal(cheap, "--fine-tune-blocks", value)


@pytest.mark.parametrize("value", ["auto", "0", "2", "10", "999"])
def test_folds_are_auto_none_or_two_and_more(cheap, value):
    assert read(cheap, "--folds", value).folds == value


@pytest.mark.parametrize("value", ["1", "-2", "1000", "all", "", "5.0", "05"])
def test_other_folds_are_refused(cheap, value):
    assert "takes auto, 0 (none) or 2 to 999" in refusal(cheap, "--folds", value)


def test_aims_may_be_absent_and_exclude_each_other(cheap):
    assert read(cheap).max_game_loss is None
    assert read(cheap, "--max-game-loss", "none").max_game_loss is None
    assert read(cheap, "--max-game-loss", "2").max_game_loss == 2.0
    assert "takes a number" in refusal(cheap, "--min-recall", "much")
    both = refusal(cheap, "--max-game-loss", "2", "--min-recall", "0.9")
    assert both.startswith("--max-game-loss and --min-recall are two aims")


def test_choice_is_refused_with_the_choices(cheap):
    assert refusal(cheap, "--frames", "ffmpeg") == (
        "--frames is one of fast, exact, keyframes, opencv, not 'ffmpeg'"
    )


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("--batchsize", "--batch-size"),
        ("--batch_size", "--batch-size"),
        ("--epoch", "--epochs"),
        ("--lerning-rate", "--learning-rate"),
    ],
)
def test_unknown_flag_is_refused_with_the_close_ones(cheap, wrong, near):
    for arguments in ([wrong, "4"], [f"{wrong}=4"]):
        said = refusal(cheap, *arguments)
        assert said.startswith(f"unknown option {wrong}: did you mean ")
        assert near in said


def test_flag_like_no_other_points_at_help(cheap):
    assert refusal(cheap, "--zzz") == "unknown option --zzz: --help lists all"


@pytest.mark.parametrize("arguments", [["--epochs"], ["epochs=3"], ["-e", "3"]])
def test_other_slips_are_one_line_too(cheap, arguments):
    said = refusal(cheap, *arguments)
    assert arguments[0] in said
    assert "--help" in said


def test_help_shows_every_constant_with_its_comment_and_value(script, capsys):
    with pytest.raises(SystemExit) as left:
        read_options(script, ["--help"])
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    lines = Path(script["__file__"]).read_text().splitlines()
    for name in FIELDS:
        (line,) = (line for line in lines if line.startswith(f"{name.upper()} = "))
        note = line.partition("  # ")[2]
        assert note
        value = script[name.upper()]
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        assert f"{flag(name)} VALUE {note} [{shown}]" in said
    assert script["__doc__"].splitlines()[0] in said


def test_percent_sign_in_a_value_breaks_no_help(cheap, capsys):
    with pytest.raises(SystemExit):
        read_options(cheap | {"DATA_DIR": "100%"}, ["--help"])
    assert "[100%]" in capsys.readouterr().out


def test_constant_missing_in_the_file_is_refused(cheap):
    del cheap["EPOCHS"]
    said = refusal(cheap)
    assert "cost_optimized_train.py does not define EPOCHS: write it" in said


def test_constants_that_contradict_each_other_are_refused(cheap):
    assert "--n-mfcc 33 can't exceed --mfcc-n-mels 32" in refusal(cheap, "--n-mfcc", "33")
    assert "--clip-hop-seconds 11 exceeds --clip-seconds 10" in refusal(
        cheap, "--clip-hop-seconds", "11"
    )


def test_recipe_of_the_features_follows_the_constants(cheap):
    spec = read(cheap).feature_spec
    for name in ("fps", "frame_size", "frames", "crop_bars", "sample_rate", "n_mfcc"):
        changed = another(name, getattr(read(cheap), name))
        text = ",".join(map(str, changed)) if isinstance(changed, tuple) else str(changed)
        assert read(cheap, flag(name), text).feature_spec.id != spec.id
    assert read(cheap, "--mfcc-n-mels", "40").feature_spec.id != spec.id
    assert read(cheap, "--epochs", "2", "--clip-seconds", "6").feature_spec.id == spec.id


def make_run(folder: Path, config: Config, **changes) -> Path:
    """The folder of a run, as far as the configuration is concerned."""
    folder.mkdir(parents=True)
    values = json.loads(json.dumps({"constants": config.constants() | changes}))
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_resumed_run_has_the_constants_it_began_with(cheap, tmp_path):
    config = read(cheap, "--epochs", "3", "--frame-size", "64,72", "--mixed-precision", "no")
    run = make_run(tmp_path / "a run", config)
    options = read_options(cheap, ["--resume", str(run)])
    assert (options.config, options.resume) == (config, run)
    kept = [note.split()[:2] for note in options.notes]
    assert kept == [["kept", "FRAME_SIZE"], ["kept", "EPOCHS"], ["kept", "MIXED_PRECISION"]]


def test_resume_alone_means_the_latest_run(cheap, tmp_path):
    cheap["RUNS_DIR"] = str(tmp_path)
    run = make_run(tmp_path / "latest", read(cheap, "--epochs", "3"))
    options = read_options(cheap, ["--resume"])
    assert (options.resume, options.config.epochs) == (run, 3)
    assert read_options(cheap, []).resume is None


def test_resume_takes_other_constants_over_where_they_fit(cheap, tmp_path):
    run = make_run(tmp_path / "run", read(cheap, "--batch-size", "16"))
    options = read_options(cheap, ["--resume", str(run), "--epochs", "20", "--seed=42"])
    assert options.config == read(cheap, "--batch-size", "16", "--epochs", "20")
    kept, changed = sorted(options.notes, reverse=True)
    assert kept.split()[:2] == ["kept", "BATCH_SIZE"]
    assert changed.split()[:2] == ["changed", "EPOCHS"]


def test_resume_refuses_constants_that_do_not_fit_what_was_learned(cheap, tmp_path):
    run = make_run(tmp_path / "run", read(cheap))
    arguments = ["--resume", str(run), "--fps", "8", "--epochs", "20", "--sound-size", "4"]
    with pytest.raises(ResumeError, match=r"--fps \(from 4.0 to 8.0.*--sound-size \(from 16 to 4"):
        read_options(cheap, arguments)


def test_resume_takes_debug(cheap, tmp_path):
    run = make_run(tmp_path / "run", read(cheap))
    assert read_options(cheap, ["--resume", str(run), "--debug"]).resume == run


@pytest.mark.parametrize("content", [None, "", "not json", "[]", "{}", '{"constants": 3}'])
def test_folder_that_is_no_run_is_refused(cheap, tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    said = refusal(cheap, "--resume", str(tmp_path))
    assert f"{tmp_path} is not the folder of a run" in said


def test_run_of_another_version_is_refused_with_the_difference(cheap, tmp_path):
    run = make_run(tmp_path / "run", read(cheap), MOMENTUM=0.9)
    assert re.search(
        r"another version \(differs in momentum\)", refusal(cheap, "--resume", str(run))
    )


def test_run_from_before_a_constant_is_resumed_as_it_was(cheap, tmp_path):
    config = read(cheap, "--epochs", "3")
    run = make_run(tmp_path / "run", config)
    values = json.loads((run / "config.json").read_text())
    for name in LATER:
        del values["constants"][name.upper()]
    (run / "config.json").write_text(json.dumps(values))
    options = read_options(cheap | {"LSTM_LAYERS": 3}, ["--resume", str(run)])
    assert options.config == config
    assert any("LSTM_LAYERS = 1" in note for note in options.notes)
    with pytest.raises(ResumeError, match="--model .from late_fusion to lrcn: the weights"):
        read_options(cheap, ["--resume", str(run), "--model", "lrcn"])


def test_what_came_later_is_what_the_scripts_say_now(script):
    config = read(script)
    assert {name: getattr(config, name) for name in LATER} == LATER


def test_weights_for_a_network_without_a_trunk_are_refused(cheap):
    lrcn = ("--model", "lrcn", "--encoder", "conv")
    assert read(cheap, *lrcn, "--weights", "none").learns_from_scratch
    assert not read(cheap, "--encoder", "conv", "--weights", "imagenet").learns_from_scratch
    for weights in ("imagenet", "trunk.safetensors"):
        said = refusal(cheap, *lrcn, "--weights", weights)
        assert said.startswith(f"--weights {weights} is of a MobileNetV2, and --encoder conv")


def test_run_whose_constants_were_edited_is_checked_like_a_command_line(cheap, tmp_path):
    longer = make_run(tmp_path / "longer", read(cheap), EPOCHS="20")
    assert read_options(cheap, ["--resume", str(longer)]).config.epochs == 20
    wrong = make_run(tmp_path / "wrong", read(cheap), EPOCHS=-1)
    assert "--epochs lies between" in refusal(cheap, "--resume", str(wrong))
