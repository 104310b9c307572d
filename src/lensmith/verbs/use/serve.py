"""`lensmith serve`: a taught model as a service over HTTP, on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith.errors import UserError, optional
from lensmith.progress import Note, Tell, silent
from lensmith.runs.files import read_json
from lensmith.runs.folder import read_run
from lensmith.verbs import terminal
from lensmith.verbs.words import listed

if TYPE_CHECKING:
    from lensmith.serve.service import Service

TOKEN = "LENSMITH_TOKEN"
"""The environment variable with the token that callers must send."""
EXAMPLES = (
    "lensmith serve runs/mine",
    "lensmith serve category=runs/a defect=runs/b --port 8080",
    "lensmith serve runs/mine --check answers.jsonl",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN|NAME=RUN", help="run folders of `lensmith train` or `lensmith probe`"
    )
    parser.add_argument("--labels", default="", help="class names for zero-shot classification, without a run: a,b,c")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="another site whose pages may ask"
    )
    parser.add_argument(
        "--corrections",
        default="corrections",
        metavar="FOLDER",
        help="where pictures are kept that were put right on the page (default: corrections; '' to keep none)",
    )
    parser.add_argument("--log-requests", metavar="FILE", help="append a JSON line for each answer, without the image")
    parser.add_argument(
        "--check",
        metavar="LOG",
        help="don't serve: say whether the answers in a log still look like those to the run's test images",
    )


@dataclass
class Options:
    """How a server behaves. Its fields are the command's arguments."""

    labels: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    allow_origin: Sequence[str] = ()
    corrections: str = ""
    log_requests: str | None = None


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    runs = named(args.runs)
    if args.check:
        return check(runs, Path(args.check))
    labels = listed(args.labels)
    options = Options(labels, args.host, args.port, args.allow_origin, args.corrections, args.log_requests)
    serve(runs, options, screen)
    return terminal.Output({"stopped": True}, ["Stopped."])


def serve(runs: dict[str, Path], options: Options, tell: Tell = silent) -> None:
    """Answer requests until the process is interrupted or terminated; what was accepted is answered before the end.

    Args:
        runs: run folders, by the names of their models; none for the shipped model with `options.labels`.

    Raises:
        UserError: a run can't be loaded, the log can't be written, or the port is taken.
    """
    uvicorn = optional("uvicorn", "serve", "A server")
    for module in ("starlette", "prometheus_client", "python_multipart"):
        optional(module, "serve", "A server")
    from lensmith.serve.app import allow_connections, make_app
    from lensmith.serve.banner import banner
    from lensmith.serve.service import Service

    if not runs and not options.labels:
        raise UserError("Which model?", "Name the run folder of a `lensmith train`, or add --labels a,b,c.")
    for folder in runs.values():
        read_run(folder)  # said before anything is loaded
    allow_connections()
    service, token = Service(), os.environ.get(TOKEN, "")
    _look_on(service, runs, options, tell)
    app = make_app(service, token, [options.host], options.allow_origin)
    config = uvicorn.Config(
        app, options.host, options.port, log_level="error", timeout_graceful_shutdown=30, server_header=False
    )
    server, failures = uvicorn.Server(config), list[Exception]()

    def load() -> None:
        """Load the models while the server says that it is loading them."""
        from lensmith.engine.taught import load_panels

        try:
            service.start(load_panels({**runs} or {"zero-shot": None}, options.labels))
        except Exception as error:
            failures.append(error)
            server.should_exit = True
            return
        for text in banner(list(service.workers), options.host, options.port, bool(token)):
            tell(Note(text))

    # uvicorn repeats the signal after its shutdown; by then there is nothing left to interrupt.
    before = {number: signal.signal(number, _ignored) for number in (signal.SIGINT, signal.SIGTERM)} if _main() else {}
    loading = threading.Thread(target=load, name="lensmith-load", daemon=True)
    try:
        loading.start()
        server.run()
    except SystemExit:
        hint = "Choose another with --port."
        raise UserError(f"The server can't listen on {options.host} port {options.port}.", hint) from None
    finally:
        service.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failures:
        raise failures[0]


def _look_on(service: Service, runs: dict[str, Path], options: Options, tell: Tell) -> None:
    """Add what the options ask for beside answers: the log, the watch for drift, and corrections."""
    from lensmith.serve.corrections import Corrections
    from lensmith.serve.watchers.drift import DriftWatch, proven
    from lensmith.serve.watchers.log import Log

    if options.log_requests:
        service.watchers.append(Log(Path(options.log_requests), tell))
        answers = {}
        for name, run in runs.items():
            with suppress(UserError):  # a run without predictions can't be compared with
                answers[name] = proven(run)
        service.watchers.append(DriftWatch(answers, tell, service.metrics.drifted))
    if options.corrections:
        commands = {name: retaught(run) for name, run in runs.items()}
        service.corrections = Corrections(Path(options.corrections), commands)


def retaught(run: Path) -> str:
    """The command that teaches a run's model again; corrections follow it as an option."""
    record = run / "record.json"
    verb = "probe" if record.exists() and read_json(record).get("verb") == "probe" else "train"
    return f"lensmith {shlex.join([verb, str(run)])}"


def _ignored(*_: object) -> None:
    """A signal that needs no further answer."""


def _main() -> bool:
    """Whether this is the thread that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()


def named(runs: Sequence[str]) -> dict[str, Path]:
    """The runs by their names: those given (`NAME=RUN`), or else the folders'.

    Raises:
        UserError: two have the same name, or a name has a slash or begins with a dot.
    """
    found: dict[str, Path] = {}
    for word in runs:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            name, folder = Path(os.path.abspath(word)).name, word
        if name in found:
            raise UserError(f"Two models are called {name!r}.", "Name them: lensmith serve first=RUN second=RUN.")
        if not name or "/" in name or "\\" in name or name.startswith("."):
            raise UserError(f"A model can't be called {name!r}.", "Give it a plain name: lensmith serve NAME=RUN.")
        found[name] = Path(folder)
    return found


def check(runs: dict[str, Path], log: Path) -> terminal.Output:
    """Whether the answers in a log still look like those to each run's test images.

    Raises:
        UserError: no run is named, the log can't be read, or it has no answers of the runs.
    """
    from lensmith.measure.drift import FALSE_ALARMS, LEAST
    from lensmith.serve.watchers.drift import WINDOW, checked, proven
    from lensmith.serve.watchers.log import read_log

    if not runs:
        raise UserError("Which run?", "Name the run that was served: lensmith serve RUN --check LOG.")
    logged: dict[str, list[tuple[str, float]]] = {}
    for entry in read_log(log):
        logged.setdefault(entry["model"], []).append((entry["label"], entry["probability"]))
    if missing := [name for name in runs if name not in logged]:
        hint = f"It has answers of {', '.join(sorted(logged))}: NAME=RUN names a run." if logged else ""
        raise UserError(f"{log} has no answers of {missing[0]}.", hint)
    rows, record = list[list[str]](), list[dict[str, object]]()
    for name, run in runs.items():
        found = checked(proven(run), logged[name])
        last, verdict, p = found.last, f"too few: {LEAST} are needed, in the log and of the test images", ""
        if last:
            verdict = f"{last.what} changed" if last.found else "as on the test images"
            p = f"{min(last.classes_p, last.confidence_p):.2g}"
        rows.append([name, f"{found.answers:,}", f"{found.alarms} of {found.windows}", p, verdict])
        record.append({"model": name} | asdict(found) | {"drift": bool(last and last.found)})
    head = ["model", "answers", "windows reported", "smaller p", f"last {WINDOW} answers"]
    note = f"Of the windows of {WINDOW} answers, {FALSE_ALARMS:.0%} are reported if nothing has changed."
    return terminal.Output({"models": record}, [terminal.Table(head, rows, frozenset({0, 4})), note])
