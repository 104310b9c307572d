"""The command line as a user sees it: exit codes, errors in one clear sentence, pure JSON, Ctrl-C and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lensmith import cli, verbs
from lensmith.cli.main import heeding_interrupts
from lensmith.cli.screen import Screen
from lensmith.progress import Advance
from tests.conftest import Run, Shapes

pytestmark = pytest.mark.long


def options(data: Path, tiny: Path, *more: str) -> list[str]:
    base = [f"data.uri={data}", f"model.base={tiny}", "model.dtype=float32", "train.epochs=1", "train.batch_size=8"]
    return [*base, "tune.rank=2", *more]


def test_train_evaluate_and_predict_with_a_users_folder(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=16, square=16)
    code, out, _ = run("train", *options(data, tiny_folder), "--run", "my run", "--json")
    record = json.loads(out)
    assert code == 0
    assert set(record["accuracy"]) == {"accuracy", "low", "high", "n"}

    code, out, _ = run("evaluate", "my run", "--run", "again", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == record["accuracy"]

    code, out, _ = run("predict", data / "circle", "--run", "my run", "--json")
    assert code == 0
    assert len(json.loads(out)["predictions"]) == 16

    code, out, _ = run("predict", next(data.rglob("*.jpg")), "--run", "my run")
    assert code == 0
    assert out.split("\t")[1] in ("circle", "square")

    rows = pq.read_table("my run/predictions.parquet").to_pylist()
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / len(rows) == record["accuracy"]["accuracy"]
    kept = json.loads(Path("my run/record.json").read_text())
    assert kept["data"]["test"]["n"] == len(rows)
    assert {"python", "packages", "machine", "commit", "dirty"} <= set(kept)


def test_options_may_stand_after_flags(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    words = options(shapes(circle=6, square=6), tiny_folder)
    code, out, err = run("evaluate", words[0], "--run", "r", "--json", *words[1:])
    assert code == 0, err
    assert json.loads(out)["name"] == "zero-shot"
    assert f"base: {tiny_folder}" in Path("r/recipe.yaml").read_text()
    assert "Did you mean '--run'?" in says(run, "evaluate", "--runs", "r")
    assert "Did you mean 'train'?" in says(run, "trian", "x")
    assert "no section 'tune.rank=3'" in says(run, "recipe", "tune.rank=3")


def test_zero_shot_among_classes_named_on_the_command_line(run: Run, shapes: Shapes) -> None:
    image = next(shapes(circle=1).rglob("*.jpg"))
    code, out, _ = run("predict", image, "--labels", "circle, square", "--json")
    assert code == 0
    (found,) = json.loads(out)["predictions"]
    assert found["predicted"] in ("circle", "square")
    assert len(found["scores"]) == 2


def says(run: Run, *words: str | Path) -> str:
    """The one sentence that reports an error, with nothing on standard output and exit code 2."""
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("lensmith: ")]
    assert len(lines) == 1, err
    return lines[0]


def test_bad_input_is_reported_in_one_clear_sentence(
    run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    data = shapes(circle=12, square=12)
    assert "no/such" in says(run, "evaluate", "data.uri=no/such folder")
    (tmp_path / "empty").mkdir()
    assert "image" in says(run, "evaluate", f"data.uri={tmp_path / 'empty'}")
    assert "circle" in says(run, "train", f"data.uri={shapes('one', circle=9)}")
    both = shapes("case", cat=5, Cat=5)
    sentence = says(run, "train", f"data.uri={both}")
    assert "'cat'" in sentence
    assert "'Cat'" in sentence
    assert "tune.rank" in says(run, "train", "tune.rnk=3")
    assert "tune.rank" in says(run, "train", "tune.rank=lots")
    assert "isn't a model" in says(run, "evaluate", *options(data, tmp_path / "empty"))
    assert "no model folder" in says(run, "evaluate", *options(data, tmp_path / "missing"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    assert "lfm2_vl" in says(run, "evaluate", *options(data, tmp_path / "other"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("precious")
    assert "exists already" in says(run, "train", *options(data, tiny_folder), "--run", tmp_path / "taken")
    assert (tmp_path / "taken" / "file").read_text() == "precious"
    assert "no adapter" in says(run, "evaluate", *options(data, tiny_folder, f"model.adapter={tmp_path / 'empty'}"))
    assert "Which classes" in says(run, "predict", data)
    assert "not a run folder" in says(run, "predict", data, "--run", tmp_path / "empty")
    assert "fashion" in says(run, "demo", "--data", "fashon")
    assert "control token" in says(run, "predict", data, "--labels", "a,<image>")


def test_images_that_cannot_be_read_are_counted_and_listed(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=12, square=12)
    (data / "circle" / "empty.jpg").write_bytes(b"")
    (data / "circle" / "text.jpg").write_text("not an image")
    whole = next((data / "square").glob("*.jpg")).read_bytes()
    (data / "square" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    everything = options(data, tiny_folder, "data.test=0.7", "data.validation=0")
    code, out, _ = run("evaluate", *everything, "--run", "e", "--json")
    record = json.loads(out)
    assert code == 0
    assert len(record["unreadable"]) >= 2
    assert record["accuracy"]["n"] == record["data"]["n"] == sum(map(sum, record["confusion"]))
    _, out, _ = run("evaluate", *everything, "--run", "e2")
    assert f"{len(record['unreadable'])} images could not be read, and were counted as wrong" in out
    assert record["unreadable"][0] in out
    assert ".jpg" in says(run, "evaluate", *everything, "data.unreadable=stop", "--run", "strict")

    code, out, _ = run("predict", data / "circle" / "text.jpg", "--labels", "a,b")
    assert code == 0
    assert "ERROR" in out
    assert "text.jpg" in out


def test_a_full_disk_is_reported_in_one_sentence_and_leaves_no_partial_file(
    run: Run, shapes: Shapes, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ("evaluate", *options(shapes(circle=9, square=9), tiny_folder), "--run", "full")
    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", full)
        assert "disk is full" in says(run, *words)
    assert [path.name for path in Path("full").iterdir()] == [".lock"]
    assert run(*words)[0] == 0, "the same command again"


def stopped_by_ctrl_c(module: str, name: str, count: int, folder: Path, *words: str) -> str:
    """The standard error of a command that gets Ctrl-C at the start of call number `count` of a function.

    A signal from outside would arrive at a different moment each time, on a fast machine perhaps after the end.
    """
    code = f"""
import signal, sys
import {module} as module
from lensmith import cli

plain, calls = module.{name}, 0

def pressed(*given):
    global calls
    calls += 1
    if calls == {count}:
        signal.raise_signal(signal.SIGINT)
    return plain(*given)

module.{name} = pressed
sys.exit(cli.main(sys.argv[1:]))
"""
    environment: dict[str, Any] = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_ctrl_c_keeps_completed_work_and_says_how_to_resume(
    run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path
) -> None:
    words = options(shapes(circle=20, square=20), tiny_folder, "train.epochs=4", "train.validate_every=100")
    # In the middle of the fourth step, as it is logged.
    err = stopped_by_ctrl_c("lensmith.learn.run_log", "append_line", 4, tmp_path, "train", *words, "--run", "a run")
    assert "lensmith resume 'a run'" in err
    log = tmp_path / "a run" / "metrics.jsonl"
    kept = log.read_text()
    assert [json.loads(line)["step"] for line in kept.splitlines()] == [1, 2, 3, 4], "a step is completed"

    again = ("train", "--resume", "a run")
    assert "tune.rank was 2 and is now 3" in says(run, *again, "tune.rank=3")
    extra = tmp_path / "my shapes" / "circle" / "one more.jpg"
    extra.write_bytes(next((tmp_path / "my shapes" / "circle").glob("*.jpg")).read_bytes() + b"\0")
    assert "images of" in (changed := says(run, *again))
    assert "have changed since the run a run was started" in changed
    extra.unlink()
    code, out, _ = run(*again, "--json", "train.micro_batch=3")  # options that don't change the result may change
    assert code == 0
    assert json.loads(out)["training"]["finished"]
    assert log.read_text().startswith(kept)
    steps = [json.loads(line).get("step") for line in log.read_text().splitlines() if '"loss"' in line]
    assert steps == list(range(1, len(steps) + 1)), "a resumed training repeats no step and skips none"


def test_resume_where_there_is_nothing_to_resume(run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    run("train", *options(shapes(circle=9, square=9), tiny_folder), "--run", "done")
    assert "is finished" in says(run, "train", "--resume", "done")
    # Stopped after training, before the result was written: only the scoring is repeated.
    first = json.loads(Path("done/result.json").read_text())
    Path("done/result.json").unlink()
    code, out, _ = run("train", "--resume", "done", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == first["accuracy"]
    assert json.loads(out)["training"] == first["training"]
    assert "not a run folder" in says(run, "train", "--resume", tmp_path)


def test_a_stopped_evaluation_resumes_where_it_was(run: Run, shapes: Shapes, tiny_folder: Path, tmp_path: Path) -> None:
    words = options(shapes(circle=50, square=50), tiny_folder, "data.test=0.8", "evaluate.batch_size=2")
    # As the third chunk is written.
    command = ["evaluate", *words, "--run", "a run"]
    err = stopped_by_ctrl_c("lensmith.runs.predictions", "Unfinished.add", 3, tmp_path, *command)
    assert "lensmith resume 'a run'" in err
    chunks = tmp_path / "a run" / "predictions.unfinished"
    assert len(list(chunks.glob("*.parquet"))) == 3, "a chunk is completed"
    assert "isn't finished" in says(run, "compare", "a run", "b run")
    assert run("evaluate", "--resume", "a run")[0] == 0
    assert run("evaluate", *words, "--run", "b run")[0] == 0
    assert not chunks.exists()
    first, second = (tmp_path / name / "predictions.parquet" for name in ("a run", "b run"))
    assert first.read_bytes() == second.read_bytes()
    assert "nothing to resume" in says(run, "evaluate", "--resume", "a run")


def test_a_slow_rate_is_not_shown_as_zero(capsys: pytest.CaptureFixture[str]) -> None:
    for rate in (0.043, 0.6, 4.4, 31.2):
        Screen()(Advance("scoring", 3, 20, rate, 17 / rate))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[1] for line in lines] == ["0.043 images/s", "0.6 images/s", "4.4 images/s", "31 images/s"]


def test_compare_reports_what_the_images_can_show(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(circle=60, square=60)
    words = options(data, tiny_folder, "train.epochs=6", "train.learning_rate=0.01", "tune.projector=true")
    assert run("train", *words, "tune.vision_tower=true", "--run", "taught")[0] == 0
    assert run("evaluate", *words, "--run", "bare")[0] == 0
    assert run("evaluate", *words, "--run", "bare again")[0] == 0

    code, out, _ = run("compare", "bare", "taught", "bare again", "--run", "c", "--json")
    record = json.loads(out)
    assert code == 0
    better, tie = record["comparisons"]
    assert better["verdict"] == "better"
    assert "taught is better than bare" in better["sentence"]
    assert tie["verdict"] == "can't tell"
    assert "can't tell bare again from bare" in tie["sentence"]
    page = Path(record["report"]).read_text()
    assert "data:image/png" in page, "what changed is shown as pictures"
    assert "tune.projector" not in page, "only settings that differ are listed"

    code, out, _ = run("compare", "taught", "bare", "--run", "d")
    assert code == 0
    assert "bare is worse than taught" in out

    assert run("evaluate", *words, "data.test_limit=9", "--run", "few")[0] == 0
    assert "few scored 9 images" in says(run, "compare", "few", "bare").replace("bare scored", "")
    assert "two runs or more" in says(run, "compare", "bare", "bare")
    assert "not a run folder" in says(run, "compare", "bare", data)
    whole = Path("few/predictions.parquet").read_bytes()
    Path("few/predictions.parquet").write_bytes(whole[: len(whole) // 2])
    assert "damaged or truncated" in says(run, "compare", "bare", "few")
    assert not list(Path("runs").glob("*compare*"))

    for picture in data.rglob("*.jpg"):
        picture.unlink()
    code, _, _ = run("compare", "bare", "taught", "--run", "gone")
    assert code == 0
    assert "can&#39;t be opened any more" in Path("gone/report.html").read_text()


def test_codes_and_names_from_training_to_prediction(run: Run, shapes: Shapes, tiny_folder: Path) -> None:
    data = shapes(red_circle=20, square=20)
    words = options(data, tiny_folder, "question.answers=codes", "question.names={square: [box, crate]}")
    assert run("train", *words, "--run", "coded")[0] == 0
    assert "A. red circle" in json.loads(Path("coded/question.json").read_text())["text"]
    code, out, _ = run("predict", data / "square", "--run", "coded", "--json")
    assert code == 0
    assert {p["predicted"] for p in json.loads(out)["predictions"]} <= {"red_circle", "square"}
    assert json.loads(Path("coded/adapter/lensmith.json").read_text())["calibration"]["prior"] == "none"


def test_help_lists_the_verbs_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    out = capsys.readouterr().out
    listed = out[out.index("\nSee:") :].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ")]
    assert names == list(verbs.VERBS)
    for group in verbs.GROUPS:
        assert f"\n{group.capitalize()}:\n" in out


def test_an_interrupt_that_arrives_in_a_destructor_is_heeded(capsys: pytest.CaptureFixture[str]) -> None:
    class Old:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def work() -> None:
        with heeding_interrupts():
            Old()
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "Traceback" not in capsys.readouterr().err
