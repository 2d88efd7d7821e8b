"""Floor plan: who may import whom, read from the source files."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each room with the rooms it may import besides itself.
GROUND = {"models", "utils", "cloud"}
WORKSHOPS = {"training", "timeline", "search"}
UPSTAIRS = {"web", "pipeline"}
MAY_IMPORT = {
    **{room: set() for room in GROUND},
    **{room: GROUND for room in WORKSHOPS},
    **{room: GROUND | WORKSHOPS for room in UPSTAIRS},
    "scripts": GROUND | WORKSHOPS | UPSTAIRS,
}

# Each heavy dependency with the only files that may import it, besides tests and benchmarks.
DOORS = {
    "av": r"utils/(media|video|scaling|bars|hardware|interleaved|parts|stretches|audio|demo_\w+"
    r"|connections|streams|tracks|picture_index|muxing|encoding|splicing|overlays|playback"
    r"|previews|proxies)\.py",
    "cv2": r"utils/(video|scaling|overlays|demo_\w+)\.py",
    "librosa": r"",  # tests alone: it takes 1.4 seconds to import
    "onnx": r"models/\w+\.py",
    "onnxruntime": r"models/\w+\.py",
    "annoy": r"search/trees\.py",
    "sqlite3": r"search/sqlite_store\.py",
    "pymongo": r"search/mongo_store\.py",
    "bson": r"search/mongo_store\.py",
    "mlflow": r"training/tracking\.py",
    "tensorboard": r"training/tracking\.py",
    "ray": r"utils/cluster\.py",
    "boto3": r"cloud/\w+\.py",
    "botocore": r"cloud/\w+\.py",
    "s3transfer": r"cloud/\w+\.py",
    "fastapi": r"web/\w+\.py",
    "starlette": r"web/\w+\.py",
    "pydantic": r"web/\w+\.py",
    "anyio": r"web/\w+\.py",
    "uvicorn": r"serve\.py",
}
ROOM_LIBRARIES = {"models": {"torch", "torchvision", "onnx", "onnxruntime", "numpy"}}
BANNED_LIBRARIES = {"cloud": {"torch", "torchvision"}}  # it starts in well under a second

OPTIONAL = {"annoy", "ray", "mlflow"}  # what asks for one says so where it is missing

PACKAGE_OF = {  # where the module's name is not the package's, or comes with another
    "PIL": "pillow",
    "anyio": "fastapi",
    "bson": "pymongo",
    "botocore": "boto3",
    "cv2": "opencv-python-headless",
    "mlflow": "mlflow-skinny",
    "pydantic": "fastapi",
    "pynvml": "nvidia-ml-py",
    "s3transfer": "boto3",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
}


SCRIPTS = sorted(ROOT.glob("*.py"))
MODULES = sorted(
    path for room in (GROUND | WORKSHOPS | UPSTAIRS) for path in (ROOT / room).rglob("*.py")
)
OURS = GROUND | WORKSHOPS | UPSTAIRS | {path.stem for path in SCRIPTS}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return "scripts" if path.parent == ROOT else path.relative_to(ROOT).parts[0]


def imports_of(path: Path) -> Iterator[str]:
    """Full names of the modules imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: import by the full name"
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def libraries_of(path: Path) -> set[str]:
    tops = {name.partition(".")[0] for name in imports_of(path)}
    return tops - OURS - set(sys.stdlib_module_names)


def by_name(paths: list[Path]) -> list:
    return [pytest.param(path, id=name_of(path)) for path in paths]


@pytest.mark.parametrize("path", by_name(SCRIPTS + MODULES))
def test_imports_only_go_down(path):
    room = room_of(path)
    for name in imports_of(path):
        target = name.partition(".")[0]
        if target in OURS and target != room:
            assert target in MAY_IMPORT[room], f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", by_name(SCRIPTS + MODULES))
def test_each_heavy_dependency_has_one_door(path):
    for name in imports_of(path):
        door = DOORS.get(name.partition(".")[0])
        assert door is None or re.fullmatch(door, name_of(path)), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", by_name(MODULES))
def test_rooms_keep_to_their_libraries(path):
    room = room_of(path)
    libraries = libraries_of(path)
    assert libraries <= ROOM_LIBRARIES.get(room, libraries)
    assert not libraries & BANNED_LIBRARIES.get(room, set())


@pytest.mark.parametrize("script", ["check_setup", "show_runs", "watch_run"])
def test_scripts_that_look_need_nothing_installed(script):
    assert libraries_of(ROOT / f"{script}.py") == set()


def test_every_library_is_named_in_the_pipfile():
    pipfile = tomllib.loads((ROOT / "Pipfile").read_text())
    named = {name for section in pipfile.values() for name in section}
    libraries = set().union(*(libraries_of(path) for path in SCRIPTS + MODULES))
    assert {PACKAGE_OF.get(name, name) for name in libraries} <= named


def test_importing_does_no_work(tmp_path):
    """Of all modules, in one fresh process in an empty folder; libraries first, which do some."""
    ours = [name_of(path).removesuffix(".py").replace("/", ".") for path in SCRIPTS + MODULES]
    names = {name for path in SCRIPTS + MODULES for name in imports_of(path)}
    libraries = sorted(name for name in names if name.partition(".")[0] not in OURS | OPTIONAL)
    program = f"""
import importlib, os, random, sys, threading
import numpy, torch
def state():
    return {{
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "running threads": threading.active_count(),
        "seeds": (random.getstate(), str(numpy.random.get_state()), torch.initial_seed()),
        "device": (torch.cuda.is_initialized(), torch.get_default_device()),
        "torch threads": torch.get_num_threads(),
    }}
for name in {libraries!r}:
    importlib.import_module(name)
sys.path.insert(0, {str(ROOT)!r})
before = state()
for name in {ours!r}:
    importlib.import_module(name)
    for what, now in state().items():
        assert now == before[what], f"{{name}} changes the {{what}}"
"""
    command = [sys.executable, "-B", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script", ["label_recording", "search_clips", "cost_optimized_train", "train", "serve"]
)
def test_scripts_start_without_the_slow_libraries(script):
    # Seconds each, and a label is promised within five seconds of the start.
    slow = {"torchvision", "librosa", "sklearn", "scipy.optimize", "cv2", "onnx", "onnxruntime"}
    slow |= {"tensorboard", "mlflow", "pymongo", "annoy"}
    if script in ("serve", "search_clips"):  # a page, or an answer, is there before torch is
        slow |= {"torch"}
    if script == "serve":
        slow |= {"sqlite3"}
    code = f"import sys, {script}; print(sorted({slow!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(ast.literal_eval(done.stdout))
    assert found <= ({"cv2"} if "train" in script else set())  # the demo set draws


def test_benchmarks_start_from_the_folder_of_the_project():
    """With nothing that only tests know where to find, as `python -m benchmarks.NAME` starts."""
    names = [f"benchmarks.{path.stem}" for path in sorted((ROOT / "benchmarks").glob("*.py"))]
    command = [sys.executable, "-c", f"import {', '.join(names)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_step_benchmark_runs_where_only_torch_and_numpy_are():
    banned = {"av", "cv2", "librosa", "PIL", "psutil", "safetensors", "scipy", "sklearn"}
    code = f"import sys, benchmarks.train_step; print(sorted({banned!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


# Parts of one thing, tested through it.
TESTED_THROUGH = {
    r"network|roles|images|schedule": "ground",
    "known_runs": "overview",
    "order|screen": "launch",
    "user_data": "run_record",
    "archive|classifier|copies": "label_recording",
    r"charts|curves|verdict": "report",
    r"demo_\w+": "demo_data",
    "local_copy": "shared_store",
    "ending|run_folder|work|workplace": "attempt",
    "encoding|picture_index|splicing": "cutting",
    "overlays": "annotation",
    "rows": "account",
    r"progress|scores|statistics": "loop",
    "tracks": "streams",
    "indexing|ingest|judging|preparing|profile|source|steps|training": "run_pipeline",
    "probing|settings": "validation",
    "cuts|levels|thumbnails": "media_api",
    "listing": "library_api",
    "looks|readers": "library",
    "sqlite_store|mongo_store": "clip_store",
    "takeover": "publishing",
    "trees": "vector_index",
    "embedder": "embeddings",
    "sessions": "runtime",
    "finder|holdings|model|names|page|places|stretch|wording": "search_clips",
    "label_jobs|labelled|timelines|model_in_use|health|recipe|workers": "timelines_api",
    "reception": "uploads_api",
    "app|services": "access",
    "search_api": "finding",
    "runs_api": "runs",
    "material": "retraining",
}


def test_every_module_has_its_test_file():
    missing = []
    for path in (path for path in MODULES if path.name != "__init__.py"):
        through = [name for parts, name in TESTED_THROUGH.items() if re.fullmatch(parts, path.stem)]
        test = ROOT / "tests" / f"test_{(through or [path.stem])[0]}.py"
        if not test.exists():
            missing.append(f"{name_of(path)} wants tests/{test.name}")
    assert missing == []
