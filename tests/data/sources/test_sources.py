"""Every module in the folder is a source: it has the functions of the protocol, with the same signatures."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from lensmith.data.source import Columns
from lensmith.data.sources import SourceModule, module, needed_files, schemes
from lensmith.errors import UserError

FUNCTIONS = ["recognises", "read", "files"]


@pytest.mark.parametrize("scheme", schemes())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_source_has_the_functions_of_the_protocol(scheme: str, name: str) -> None:
    method = inspect.signature(getattr(SourceModule, name))
    expected = [parameter for parameter in method.parameters.values() if parameter.name != "self"]
    function = getattr(module(scheme), name)
    assert inspect.signature(function) == method.replace(parameters=expected)
    assert function.__doc__


def test_the_protocol_documents_every_function() -> None:
    assert [name for name, value in vars(SourceModule).items() if inspect.isfunction(value) and name[0] != "_"] == (
        FUNCTIONS
    )
    assert all(getattr(SourceModule, name).__doc__ for name in FUNCTIONS)


@pytest.mark.parametrize("scheme", ["folder", "table", "idx", "cifar"])
def test_files_of_a_missing_path_are_refused(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or folder"):
        needed_files(f"{scheme}:{tmp_path / 'missing'}", Columns())
