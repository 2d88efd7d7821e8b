"""Fixtures: made clips, a random trunk and one training on them, shared by all tests."""

import os
import shutil
import signal
from pathlib import Path

import pytest

# The networks here are tiny, and one thread each is fastest when tests run beside other work; it
# also makes sums come out the same in every process.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background deaf to Ctrl-C, and so would be all that is tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item) -> None:
    """Looks for a browser before a server and its recordings are made for a test in one."""
    if item.get_closest_marker("browser"):
        from tests.browser import require_chromium

        require_chromium()


@pytest.fixture(autouse=True)
def own_sigterm():
    """The handler of before the test: a Ray cluster that is started in one leaves its own."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def clips_folder(tmp_path_factory) -> Path:
    """Five groups of ads and of games."""
    from tests.trainings import write_clips

    return write_clips(tmp_path_factory.mktemp("clips"), range(5), ("ads", "games"))


@pytest.fixture(scope="session")
def trunk_file(tmp_path_factory) -> Path:
    """A .safetensors file that --weights takes."""
    from tests.trainings import write_trunk

    return write_trunk(tmp_path_factory.mktemp("trunk") / "trunk.safetensors")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache folder in which the clips are decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def small_flags(clips_folder, trunk_file, shared_cache) -> list[str]:
    """Arguments that make either script train in seconds; only --runs-dir is left to say."""
    from tests.trainings import SMALL, flags

    return flags(
        **SMALL,
        data_dir=clips_folder,
        weights=trunk_file,
        cache_dir=shared_cache,
        fine_tune_blocks=0,
        epochs=8,
        head_learning_rate=0.01,
    )


@pytest.fixture(scope="session")
def trained_run(small_flags, tmp_path_factory) -> Path:
    """The folder of a run of cost_optimized_train.py that went well; not to be changed."""
    import cost_optimized_train
    from tests.trainings import run_script

    runs = tmp_path_factory.mktemp("runs")
    outcome = run_script(cost_optimized_train, *small_flags, "--runs-dir", runs)
    assert outcome.code == 0, outcome.err
    (runs / "said").write_text(outcome.out)
    return (runs / "latest").resolve()


@pytest.fixture(scope="session")
def made_archive(tmp_path_factory):
    """Recordings with a known truth and a model that gets a part wrong; to be copied."""
    from tests.archives import make_archive

    return make_archive(tmp_path_factory.mktemp("archive") / "made")


@pytest.fixture(scope="module")
def chromium():
    """A browser; the tests are skipped where there is none, or fail if REQUIRE_BROWSER=1."""
    from tests.browser import open_chromium

    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def s3_server():
    """An S3 service on loopback, which tests may make faulty."""
    from tests.s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The same with nothing asked yet; boto3 of this process, and of its children, goes there."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.requests.clear()
    return s3_server


@pytest.fixture
def small_instance(s3, tmp_path):
    """What an attempt on an instance finds there; all that it starts is killed at the end."""
    from tests.small_instance import SmallInstance

    instance = SmallInstance(tmp_path / "instance", s3)
    yield instance
    instance.close()


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """A made AWS, to which boto3 comes as from a laptop; what its instances start does nothing."""
    from cloud import user_data
    from cloud.aws import client
    from cloud.s3 import forget_connection
    from tests.aws_world import World

    def forget() -> None:
        client.cache_clear()  # not forget_clients, which would have all descriptions read again
        forget_connection()

    monkeypatch.setattr(user_data, "BOOTSTRAP", tmp_path / "bootstrap.sh")
    user_data.BOOTSTRAP.write_text("sleep 60\n")
    world = World(tmp_path / "aws")
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    forget()
    yield world
    world.close()
    forget()


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory) -> Path:
    """A database of MLflow without a run, to be copied: making its tables takes seconds."""
    from tests.mlflow_server import make_database

    return make_database(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


@pytest.fixture(scope="session")
def copying_script(tmp_path_factory) -> Path:
    """A training script that leaves the files of another run, in no time."""
    from tests.pipelines import write_training

    return write_training(tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="session")
def finished_pipeline(
    tmp_path_factory, clips_folder, trained_run, mlflow_database, copying_script
) -> Path:
    """The folder of a pipeline that ran once, with what it `said`; not to be changed."""
    from tests.pipelines import OUTSIDE, RUN_VARIABLE, pipeline_flags, run_pipe

    folder = tmp_path_factory.mktemp("finished")
    (folder / "runs").mkdir()
    shutil.copy(mlflow_database, folder / "runs" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in OUTSIDE:
            patch.delenv(name, raising=False)
        patch.setenv(RUN_VARIABLE, str(trained_run))
        outcome = run_pipe(folder, pipeline_flags(clips_folder, copying_script))
    assert outcome.code == 0, outcome.err
    (folder / "said").write_text(outcome.out)
    return folder
