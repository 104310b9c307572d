"""A run folder is never overwritten, records its provenance, and is rejected in one sentence if it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmith.errors import UserError
from lensmith.runs.files import read_json
from lensmith.runs.folder import new_run_folder, read_evaluation, verb_of
from lensmith.runs.provenance import provenance


def test_a_run_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path / "new" / "run").is_dir()
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="exists already"):
            new_run_folder(taken)
    with pytest.raises(UserError, match="can't be created"):
        new_run_folder(tmp_path / "file" / "run")


def test_provenance_names_program_and_machine() -> None:
    where = provenance()
    assert {"torch", "transformers", "peft", "lensmith"} <= set(where["packages"])
    assert where["machine"]["cores"] >= 1


def test_damaged_records_are_reported_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no evaluation\.json"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"name": "tuned"')
    with pytest.raises(UserError, match="is damaged"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"name": "tuned"}')
    with pytest.raises(UserError, match="another version: accuracy"):
        read_evaluation(tmp_path)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="not a JSON object"):
        read_json(tmp_path / "list.json")
    (tmp_path / "predictions.unfinished").mkdir()
    with pytest.raises(UserError, match="lensmith resume"):
        read_evaluation(tmp_path)


def test_a_run_that_was_killed_before_it_began_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(UserError, match=r"was stopped before it began\. Remove the folder"):
        verb_of(tmp_path)
