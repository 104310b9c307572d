"""`lensmith recipe`: show every option."""

from __future__ import annotations

import argparse

from lensmith.config import Recipe, help_text
from lensmith.verbs import terminal

ABOUT = "show every option of a recipe, its default and its meaning"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line: none."""


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """The command."""
    return terminal.Output(Recipe().to_dict(), help_text())
