"""`lensmith attach`: follow a job on a remote machine, or pick up the answers of a batch."""

from __future__ import annotations

import argparse
from pathlib import Path

from lensmith.jobs.job import Job, perform
from lensmith.places import place_of
from lensmith.runs.folder import verb_of
from lensmith.runs.shapes import JobNote, read_as
from lensmith.verbs import module, terminal

EXAMPLES = ("lensmith attach runs/mine", "lensmith attach runs/mine --cancel")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder of the job")
    parser.add_argument("--cancel", action="store_true", help="end the job, and copy back what is there so far")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    from lensmith.apis.batches import FILE

    if (args.run / FILE).exists():
        from lensmith.verbs.outside import cancel_batch

        verb = verb_of(args.run)
        record = cancel_batch(args.run) if args.cancel else perform(Job(verb, None, args.run, resume=True), screen)
        return terminal.output(record, module(verb).text)
    remote = place_of(args.run)
    verb = read_as(args.run / "place.json", JobNote)["verb"]
    record = remote.cancel(args.run, screen) if args.cancel else remote.attach(args.run, screen)
    return terminal.output(record, module(verb).text)
