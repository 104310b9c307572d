"""`lensmith serve`: a taught model as a service over HTTP, on this machine."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from lensmith.errors import UserError, optional
from lensmith.progress import Note, Tell, silent
from lensmith.verbs import terminal

EXAMPLES = ("lensmith serve runs/mine", "lensmith serve category=runs/a defect=runs/b --port 8080")
TOKEN = "LENSMITH_TOKEN"
"""The environment variable with the token that callers must send."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN|NAME=RUN", help="run folders of `lensmith train` or `lensmith probe`"
    )
    parser.add_argument("--labels", default="", help="class names for zero-shot classification, without a run: a,b,c")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    serve(args.runs, labels, args.host, args.port, screen)
    return terminal.Output({"stopped": True}, ["Stopped."])


def serve(
    runs: Sequence[str], labels: Sequence[str] = (), host: str = "127.0.0.1", port: int = 8000, tell: Tell = silent
) -> None:
    """Answer requests until the process is interrupted or terminated; what was accepted is answered before the end.

    Args:
        runs: run folders, each perhaps with a name before it: `NAME=RUN`.
        labels: the classes of the shipped model, if there is no run.

    Raises:
        UserError: a run can't be loaded, two have the same name, or the port is taken.
    """
    uvicorn = optional("uvicorn", "serve", "A server")
    optional("starlette", "serve", "A server")
    from lensmith.engine.taught import load_taught
    from lensmith.serve.app import make_app
    from lensmith.serve.service import Service

    named = _named(runs)
    if not named and not labels:
        raise UserError("Which model?", "Name the run folder of a `lensmith train`, or add --labels a,b,c.")
    folders: dict[str, Path | None] = {**named} or {"zero-shot": None}
    classifiers = {name: load_taught(folder, labels).classifier for name, folder in folders.items()}
    for classifier in classifiers.values():
        classifier.top = None  # callers are told the probabilities of all classes
    service, token = Service(classifiers), os.environ.get(TOKEN, "")
    for text in banner(list(classifiers), host, port, bool(token)):
        tell(Note(text))
    config = uvicorn.Config(
        make_app(service, token, [host]),
        host,
        port,
        log_level="error",
        timeout_graceful_shutdown=30,
        server_header=False,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit:
        raise UserError(f"The server can't listen on {host} port {port}.", "Choose another with --port.") from None
    finally:
        service.close()


def _named(runs: Sequence[str]) -> dict[str, Path]:
    """The runs by their names: those given, or else the folders'."""
    named: dict[str, Path] = {}
    for word in runs:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            name, folder = Path(os.path.abspath(word)).name, word
        if name in named:
            raise UserError(f"Two models are called {name!r}.", "Name them: lensmith serve first=RUN second=RUN.")
        named[name] = Path(folder)
    return named


def banner(names: Sequence[str], host: str, port: int, token: bool) -> list[str]:
    """What the server says when it starts: how each protocol is used."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key, header = ("TOKEN", " -H 'Authorization: Bearer TOKEN'") if token else ("none", "")
    lines = [
        f"Serving {', '.join(names)} at {url}; Ctrl-C stops it.",
        f'  OpenAI:        client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        f'  Hugging Face:  InferenceClient(model="{url}").image_classification("image.jpg")',
        f"  curl:          curl --data-binary @image.jpg{header} {url}",
    ]
    if not token and not (host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)):
        lines.append(f"Whoever reaches this machine may ask it. Set {TOKEN} to require a token.")
    return lines


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
