"""`lensmith attach`: follow a job that runs at another place, and bring its run back."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensmith.places import place_of
from lensmith.runs.files import read_json
from lensmith.verbs import module, terminal

ABOUT = "follow a job that runs at another place, and copy its run back"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder it was started with")
    parser.add_argument("--cancel", action="store_true", help="end the job instead, and copy back what was done")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """The command."""
    there = place_of(args.run)
    verb = str(read_json(args.run / "place.json")["verb"])
    record = there.cancel(args.run, screen) if args.cancel else there.attach(args.run, screen)
    return terminal.Output(record, module(verb).text(record))
