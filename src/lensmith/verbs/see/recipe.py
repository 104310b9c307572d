"""`lensmith recipe`: list every option."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from lensmith.config import Recipe, help_text, schema, sections
from lensmith.verbs import terminal

EXAMPLES = ("lensmith recipe train", "lensmith recipe --schema > lensmith.schema.json")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    # No `choices`, since argparse's own message for them names neither the nearest section nor what a section is.
    parser.add_argument("section", nargs="?", metavar="SECTION", help=f"one of: {', '.join(sections())}")
    parser.add_argument("--schema", action="store_true", help="print a JSON schema of recipe files, for editors")


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    if args.schema:
        return terminal.Output(record := schema(), [json.dumps(record, indent=2, ensure_ascii=False)])
    text, recipe = help_text(args.section), Recipe()
    return terminal.Output(asdict(getattr(recipe, args.section)) if args.section else recipe.to_dict(), [text])
