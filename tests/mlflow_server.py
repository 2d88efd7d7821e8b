"""MLflow server: the real one, over HTTP on loopback, with a database and files in a folder."""

import logging
import os
import threading
from pathlib import Path

from werkzeug.serving import WSGIRequestHandler, make_server

from tests.ports import keep_port
from training.tracking import URI_VARIABLE, open_client


def make_database(path: Path) -> Path:
    """An MLflow database without a run, which takes seconds to make: copy it."""
    open_client(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


class QuietHandler(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_) -> None:
        pass


class MlflowServer:
    """A running server; one in a process, as MLflow keeps its stores in globals."""

    def __init__(self, folder: Path):
        os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
        os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = (folder / "artifacts").as_uri()
        from mlflow.server import app
        from mlflow.server.handlers import initialize_backend_stores

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        initialize_backend_stores(f"sqlite:///{folder}/server.db", None, "mlflow-artifacts:/")
        # It has told all clients of this process, and so the trainings of all later tests.
        os.environ.pop(URI_VARIABLE, None)
        self._app = app
        self._server = None
        self._place = keep_port()
        self._port = self._place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._server = make_server(
            "127.0.0.1", self._port, self._app, threaded=True, request_handler=QuietHandler
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
