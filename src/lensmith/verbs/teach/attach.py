"""`lensmith attach`: follow a job on a remote machine, and copy its run back."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensmith.places import place_of
from lensmith.runs.shapes import JobNote, read_as
from lensmith.verbs import module, terminal

EXAMPLES = ("lensmith attach runs/mine", "lensmith attach runs/mine --cancel")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder of the job")
    parser.add_argument("--cancel", action="store_true", help="end the job, and copy back what is there so far")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    remote = place_of(args.run)
    verb = read_as(args.run / "place.json", JobNote)["verb"]
    record = remote.cancel(args.run, screen) if args.cancel else remote.attach(args.run, screen)
    return terminal.Output(record, module(verb).text(record))
