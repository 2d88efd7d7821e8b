"""Opens the review page: see where the ads are, correct it, search, and train again from that.

    python serve.py                                 the recordings in data/, at 127.0.0.1:8000
    python serve.py match-archive/ /mnt/tv          those of other folders
    python serve.py --port 0 --open                 a free port, and the browser on it
    python serve.py --host 0.0.0.0 --token          for others in the network, who need the token

Nothing is changed in the folders but the label files that you save on the page, `game.json` beside
`game.ts`; where a folder can't be written, they are kept in the cache. Those files are training
data as they are: the Runs page trains from them. The first model is trained there, too.

Without a token only this machine is let in. With one, open the printed address once: the browser
remembers. Programs send it as `Authorization: Bearer TOKEN`; what they can ask is on /docs.
Ctrl-C ends the page; jobs that were running go on at the next start.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import webbrowser
from pathlib import Path

import uvicorn

from utils.errors import UserError, run_main
from web.app import create_app
from web.model_in_use import NoModel
from web.services import Services
from web.settings import MAX_UPLOAD_BYTES, MAX_UPLOADS, Settings

HOST, PORT = "127.0.0.1", 8000
TOKEN_VARIABLE = "REVIEW_TOKEN"
SHORTEST_TOKEN = 16  # characters
NEW = "new"  # what --token without one stands for
STOP_SECONDS = 3  # for answers that are on their way
KEEP_ALIVE_SECONDS = 30


def main() -> int:
    options = _read_options()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    settings = _read_settings(options)
    listening = _listen(options.host, options.port)
    address = _address(options.host, listening.getsockname()[1])
    with listening:
        app = create_app(settings)
        server = Server(app, _config(app))
        app.state.services.start()  # by now: uvicorn would show a mistake as a traceback
        print("\n".join(_introduce(app.state.services, address, options)), flush=True)
        if options.open:
            webbrowser.open(_with_token(address, settings.token))
        _allow_many_connections()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, when uvicorn is done
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve([listening]))
    print("\nstopped; jobs that were running go on at the next start")
    return 0


class Server(uvicorn.Server):
    """uvicorn, which tells the app at once when it is to stop: streams of events never end."""

    def __init__(self, app: object, config: uvicorn.Config):
        super().__init__(config)
        self._services = app.state.services

    def handle_exit(self, sig: int, frame: object) -> None:
        self._services.stop_streams()
        super().handle_exit(sig, frame)


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python serve.py",
        usage="%(prog)s [FOLDER...] [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, metavar="FOLDER", help="with recordings [--data-dir]")
    add("--open", action="store_true", help="open the page in the browser")
    add("--debug", action="store_true", help="show the traceback of an error")

    add = parser.add_argument_group("who is let in").add_argument
    add("--port", type=int, default=PORT, help="0 takes a free one [%(default)s]")
    add("--host", default=HOST, help="address to listen on [%(default)s]")
    add(
        "--token",
        nargs="?",
        const=NEW,
        default=os.environ.get(TOKEN_VARIABLE),
        help=f"that everybody must have; without a value one is made [{TOKEN_VARIABLE}, which "
        "other users of the machine don't see]",
    )

    add = parser.add_argument_group("places").add_argument
    add("--data-dir", type=Path, default=Path("data"), help="what trainings read [%(default)s]")
    add("--cache-dir", type=Path, default=Path("cache"), help="what is remembered [%(default)s]")
    add("--runs-dir", type=Path, default=Path("runs"), help="trainings [%(default)s]")
    add("--checkpoint", type=Path, metavar="FILE", help="model [the champion, else the latest]")
    add("--weights", metavar="FILE", help="of the trunk, for trainings [as the scripts find them]")

    add = parser.add_argument_group("bounds").add_argument
    most = MAX_UPLOAD_BYTES / 2**30
    add("--max-upload-gb", type=float, default=most, help="of an uploaded file [%(default)g]")
    add("--max-uploads", type=int, default=MAX_UPLOADS, help="uploaded files kept [%(default)s]")
    return parser.parse_args()


def _read_settings(options: argparse.Namespace) -> Settings:
    """Raises UserError for what can't be, or would let everybody in."""
    token = secrets.token_urlsafe(24) if options.token == NEW else options.token or None
    if token is None and not _is_this_machine(options.host):
        raise UserError(
            f"--host {options.host} would let everybody in the network in: add --token, or leave "
            "--host away"
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
        raise UserError(
            f"the token has fewer than {SHORTEST_TOKEN} characters, or others than ASCII: use "
            "--token without a value, which makes one"
        )
    if options.max_upload_gb <= 0 or options.max_uploads < 0:
        raise UserError("--max-upload-gb is more than 0, and --max-uploads 0 or more")
    if options.checkpoint and not options.checkpoint.is_file():
        raise UserError(f"{options.checkpoint} is not a file: leave --checkpoint away, or train")
    return Settings.of(
        options.folders,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        runs_dir=options.runs_dir,
        checkpoint=options.checkpoint and options.checkpoint.absolute(),
        weights=options.weights,
        token=token,
        max_upload_bytes=int(options.max_upload_gb * 2**30),
        max_uploads=options.max_uploads,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Raises UserError where the port is taken, or the address is not of this machine."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port} is none: ports go from 0, a free one, to 65535")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(1024)
    except OSError as error:
        raise UserError(
            f"can't listen on {host}, port {port} ({error.strerror or error}): try another --port, "
            "or 0 for a free one"
        ) from None
    return listening


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # its lines have the query, and so the token
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


def _introduce(services: Services, address: str, options: argparse.Namespace) -> list[str]:
    """What is said at the start: where the page is, what it shows, and what is missing yet."""
    settings = services.settings
    lines = [f"page      {_public_address(address, options, settings)}"]
    for folder in settings.folders[:-1]:
        there = "" if folder.path.is_dir() else "  is not there yet: put recordings into it"
        lines.append(f"folder    {folder.path}{there}")
    try:
        model = services.model.known()
        said = f"{model.run}: {', '.join(model.classes)}"
    except NoModel:
        said = "none yet: train one on the Runs page"
    except UserError as error:  # a checkpoint that can't be used
        said = str(error)
    lines.append(f"model     {said}")
    lines.append("stop      Ctrl-C")
    return lines


def _public_address(address: str, options: argparse.Namespace, settings: Settings) -> str:
    """The address to open; with a token that was made just now, which is nowhere else."""
    if settings.token is None:
        return address
    if options.token != NEW:
        return f"{address}?token=... with your token"
    if sys.stdout.isatty():
        return _with_token(address, settings.token)
    file = settings.review_dir / "token"  # what is printed goes into some log
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(f"{settings.token}\n")
    return f"{address}?token=... with the token in {file}"


def _with_token(address: str, token: str | None) -> str:
    return f"{address}?token={token}" if token else address


def _address(host: str, port: int) -> str:
    """As the browser wants it; for all addresses of the machine, by its name."""
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, of whatever
        return False


def _allow_many_connections() -> None:
    """As many open files as this user may have: each connection is one, and some only wait."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    run_main(main)
