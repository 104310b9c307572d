"""`lensmith recipe`: list every option."""

from __future__ import annotations

import argparse

from lensmith.config import Recipe, help_text
from lensmith.verbs import terminal

ABOUT = "list every option of a recipe, with its default and meaning"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    return terminal.Output(Recipe().to_dict(), help_text())
