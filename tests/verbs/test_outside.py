"""`lensmith evaluate` with outside models: consent, keys, prices, and a run folder like any other."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensmith.engine.taught import load_panels
from lensmith.serve.service import Service
from tests.apis.fake_api import FakeApi, running
from tests.conftest import Run, Shapes
from tests.serve.conftest import serving

pytestmark = pytest.mark.long


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running(FakeApi()) as api:
        yield api


def words(shapes: Shapes, api: FakeApi, provider: str = "openai", **counts: int) -> list[str | Path]:
    suffix = "" if provider == "systemone" else "/v1"
    counts = counts or {"circle": 20, "square": 20}
    return ["evaluate", shapes(**counts), f"model.base={provider}:m@{api.url}{suffix}", "data.test=0.5"]


def test_a_run_of_an_outside_model_is_a_run_like_any_other(shapes: Shapes, api: FakeApi, run: Run) -> None:
    api.faults = {"refuse": 0.3}
    code, out, err = run(*words(shapes, api), "--run", "api", "api.repeat=0.2")
    assert code == 0, err
    assert "on this machine: no image leaves it" in err
    assert "got no answer, and were counted as wrong" in out
    summary = json.loads(Path("api/api.json").read_text())
    evaluation = json.loads(Path("api/evaluation.json").read_text())
    assert summary["kinds"]["refused"] == len(evaluation["unanswered"]) > 0
    assert summary["kinds"]["answer"] + summary["kinds"]["refused"] == evaluation["accuracy"]["n"]
    assert summary["repeated"] == {"n": round(0.2 * evaluation["accuracy"]["n"]), "changed": 0}
    assert evaluation["calibration"] == {}
    request = json.loads(Path("api/request.json").read_text())
    assert "<the image in base64>" in json.dumps(request)
    assert "enum" in json.dumps(request)
    assert "Images that got no answer" in Path("api/report.html").read_text()
    code, out, err = run("report", "api")
    assert code == 0, err
    code, out, err = run("resume", "api")
    assert (code, "is finished" in err) == (2, True)


def test_probabilities_are_calibrated_on_validation_images(shapes: Shapes, api: FakeApi, run: Run) -> None:
    command = words(shapes, api, "systemone", circle=60, square=60)
    code, _, err = run(*command, "data.validation=0.4", "--run", "api")
    assert code == 0, err
    evaluation = json.loads(Path("api/evaluation.json").read_text())
    assert evaluation["calibration"]["split"] == "validation"
    scores = pq.read_table("api/predictions.parquet").to_pylist()
    assert {round(row["score: circle"], 4) for row in scores} == {-0.1054, -2.3026}
    asked = len(api.bodies)
    assert asked == evaluation["accuracy"]["n"] + evaluation["calibration"]["n"]


def test_a_stopped_run_goes_on_and_pays_for_nothing_twice(shapes: Shapes, api: FakeApi, run: Run) -> None:
    api.usage = {"prompt_tokens": 100_000, "completion_tokens": 0}
    budget = ["api.price={input: 1}", "api.budget=1"]
    code, _, err = run(*words(shapes, api), *budget, "--run", "api")
    assert (code, "The budget of $1 allows no further request" in err) == (2, True), err
    paid = len(api.bodies)
    assert 1 <= paid <= 10
    code, out, err = run("resume", "api", "api.budget=100")
    assert code == 0, err
    evaluation = json.loads(Path("api/evaluation.json").read_text())
    assert len(api.bodies) == evaluation["accuracy"]["n"] > paid
    assert json.loads(Path("api/api.json").read_text())["dollars"] == pytest.approx(0.1 * len(api.bodies))
    assert f"${0.1 * len(api.bodies):.4f}" in out


def test_a_replay_needs_no_server(shapes: Shapes, api: FakeApi, run: Run) -> None:
    command = words(shapes, api)
    assert run(*command, "--run", "first")[0] == 0
    asked = len(api.bodies)
    code, out, err = run(*command, "api.replay=first", "--run", "second")
    assert code == 0, err
    assert len(api.bodies) == asked
    assert f"Replayed from an earlier run, and not asked again: {asked} answers" in out
    assert json.loads(Path("second/api.json").read_text())["delay"] == {"n": 0}
    code, out, err = run("compare", "first", "second", "--run", "both")
    assert (code, "can't tell" in out) == (0, True), err


def test_the_readme_compares_end_to_end_as_written(shapes: Shapes, run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    shapes("my-images", circle=40, square=40)
    options = [f"model.base={tiny_folder}", "model.dtype=float32"]
    assert run("probe", "my-images", *options, "--run", "runs/mine")[0] == 0
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.+?)```", page, re.DOTALL)
    serve, evaluate, compare = (shlex.split(line)[1:] for line in block.splitlines())
    assert serve[:2] == ["serve", "runs/mine"]
    with serving(Service(load_panels({"mine": tmp_path / "runs" / "mine"}))) as server:
        code, _, err = run(*(word.replace("http://127.0.0.1:8000", server.url) for word in evaluate))
        assert code == 0, err
    code, out, err = run(*compare, "ladder.hourly_cost=1", "ladder.label_cost=0.1")
    assert code == 0, err
    assert "can't tell" in out, "the same model, in process and over HTTP"
    assert "They are correct on the same images" in out
    assert re.search(r"1,000 images cost \$0.00 with api and \$\S+ with mine: at these prices, mine is never", out)
    page = next(Path("runs").glob("*compare*/report.html")).read_text()
    assert "Cost and delay" in page


def test_what_a_local_model_saves_is_counted(shapes: Shapes, api: FakeApi, run: Run, tiny_folder: Path) -> None:
    api.usage = {"prompt_tokens": 10_000, "completion_tokens": 0}
    command = words(shapes, api)
    code, _, err = run(*command, "api.price={input: 1}", "api.repeat=0.5", "--run", "api")
    assert code == 0, err
    options = [f"model.base={tiny_folder}", "model.dtype=float32", "data.test=0.5"]
    assert run("probe", command[1], *options, "--run", "mine")[0] == 0
    code, out, err = run("compare", "api", "mine", "ladder.label_cost=0.5", "--run", "both", "--json")
    assert code == 0, err
    paid, own = json.loads(out)["costs"]["runs"]
    labels = json.loads(Path("mine/record.json").read_text())["data"]["train"]["n"]
    assert (paid["per_image"], own["per_image"], own["fixed"]) == (pytest.approx(0.01), 0.0, labels * 0.5)
    assert f"cheaper from {labels * 50:,} images on" in json.loads(out)["costs"]["sentences"][0]
    assert paid["repeated"]["n"] == round(0.5 * json.loads(Path("api/evaluation.json").read_text())["accuracy"]["n"])
    assert own["delay"]["n"] > 0
    code, _, err = run("compare", "api", "mine", "ladder.methods=[probe]")
    assert (code, "A comparison has no option" in err) == (2, True)


FAR = "model.base=openai:m@http://api.example.com/v1"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["model.base=openai:gpt-6-luna"], "Set the environment variable OPENAI_API_KEY"),
        (["model.base=opena:gpt-6-luna"], "Did you mean 'openai'?"),
        ([FAR], "The price of m isn't known"),
        ([FAR, "api.price={input: 1}"], "Nothing was sent: 20 images would go to api.example.com"),
        ([FAR, "api.price={input: 1}", "api.repeat=2"], "api.repeat"),
        ([FAR, "api.price={input: 1}", "--on", "modal"], "is asked from this machine"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_folder(
    options: list[str], sentence: str, shapes: Shapes, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, _, err = run("evaluate", shapes(circle=20, square=20), "data.test=0.5", *options, "--run", "api")
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not Path("api").exists()


@pytest.mark.parametrize("verb", ["train", "probe", "ladder", "curve", "sweep"])
def test_an_outside_model_cant_be_taught(verb: str, shapes: Shapes, run: Run) -> None:
    code, _, err = run(verb, shapes(circle=20, square=20), "model.base=openai:gpt-6-luna", "--run", "api")
    assert code == 2
    assert "openai:gpt-6-luna is an outside model" in err


@pytest.mark.parametrize(
    ("options", "sentence"), [(["api.replay=nowhere"], "nowhere has no recorded answers"), ([], "answered HTTP 404")]
)
def test_a_run_that_ends_before_its_first_answer_leaves_no_folder(
    options: list[str], sentence: str, shapes: Shapes, api: FakeApi, run: Run
) -> None:
    api.statuses["completions"] = 404
    code, _, err = run(*words(shapes, api), *options, "--run", "api")
    assert code == 2
    assert sentence in err
    assert not Path("api").exists()


def test_a_run_lends_its_images_and_its_question_to_an_outside_model(
    shapes: Shapes, api: FakeApi, run: Run, tiny_folder: Path
) -> None:
    question = ["question.names={circle: a dark disc, square: a light one}"]
    options = [f"model.base={tiny_folder}", "model.dtype=float32", "data.test=0.5", *question]
    assert run("probe", shapes(circle=20, square=20), *options, "--run", "mine")[0] == 0
    code, _, err = run("evaluate", "mine", f"model.base=openai:m@{api.url}/v1", "--run", "api")
    assert code == 0, err
    assert b"a dark disc" in api.bodies[0]
    assert run("compare", "api", "mine", "--run", "both")[0] == 0


def test_a_server_that_isnt_there_is_named(shapes: Shapes, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lensmith.apis.sending import Response

    monkeypatch.setattr(Response, "wait", lambda *_: 0.0)
    base = "model.base=systemone:m@http://127.0.0.1:9"
    code, _, err = run("evaluate", shapes(circle=20, square=20), base, "--run", "api")
    assert code == 2
    assert "got no answer from 127.0.0.1" in err
    assert "lensmith resume" in err


def test_the_shutdown_that_the_api_tells_is_said(
    shapes: Shapes, api: FakeApi, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensmith.apis.providers import openai

    monkeypatch.setattr(openai.Provider, "URL", f"{api.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    api.shutdown_date = "2999-01-14"
    code, out, err = run("evaluate", shapes(circle=20, square=20), "model.base=openai:gpt-4o", "--run", "api")
    assert code == 0, err
    assert "gpt-4o is shut down on 2999-01-14" in err
    assert "gpt-4o is shut down on 2999-01-14" in out
    api.statuses["gpt-5"] = 404
    code, _, err = run("evaluate", shapes(circle=20, square=20), "model.base=openai:gpt-5", "--run", "other")
    assert (code, "has no model 'gpt-5'" in err) == (2, True)
    assert not any("secret" in path.read_text(errors="ignore") for path in Path().rglob("*.json*"))
