"""The worked examples of docs/adding.md work as written, and docs/design.md describes the rooms as they are."""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image

from lensmith import apis, models, verbs
from lensmith.apis.pictures import picture
from lensmith.apis.provider import Ask, Malformed
from lensmith.config import ApiOptions, ModelOptions
from lensmith.data import open_dataset
from lensmith.data.source import Columns
from lensmith.data.sources import SourceModule, needed_files
from lensmith.learn import methods
from lensmith.models.views import stack
from tests.conftest import Run, Shapes
from tests.models.checkpoints import make
from tests.pages.samples import HOSTILE, loads_nothing, text

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lensmith"
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:python|jinja)\n(?:# |{# )(src/\S+).*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES: dict[str, str] = dict(BLOCK.findall(PAGE))
"""Code by the path where the page says it belongs."""

AddPlugin = Callable[[str], ModuleType]


@pytest.fixture
def add_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddPlugin]:
    """Makes an example a module of its room until the test ends, and imports it."""
    added: list[tuple[ModuleType, str]] = []

    def add(path: str) -> ModuleType:
        target = Path(path)
        package = importlib.import_module(".".join(target.parent.parts[1:]))
        folder = tmp_path / "examples" / package.__name__
        folder.mkdir(parents=True)
        (folder / target.name).write_text(EXAMPLES[path], encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added.append((package, target.stem))
        return importlib.import_module(f"{package.__name__}.{target.stem}")

    yield add
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        package.__dict__.pop(name, None)


def test_no_example_is_the_name_of_something_that_exists() -> None:
    assert len(EXAMPLES) == 9
    for path in EXAMPLES:
        assert not (ROOT / path).exists(), path


def test_the_rooms_that_the_page_names_exist() -> None:
    rooms = re.findall(r"^\|[^|]+\|(.*)\|$", PAGE.partition("## A data source")[0], re.MULTILINE)
    paths = [path for cell in rooms for path in re.findall(r"`([\w/]+(?:/|\.py))`", cell)]
    assert len(paths) >= 12
    for path in paths:
        assert (SOURCE / path).exists(), path


def test_the_design_shows_every_room_and_the_order_of_imports() -> None:
    (tree,) = re.findall(r"^src/lensmith/\n(.*?)^```", DESIGN, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^  ([\w.]+)/? ", tree, re.MULTILINE)
    assert sorted(shown) == sorted(
        path.name for path in SOURCE.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("__")
    )
    (order,) = re.findall(r"^(cli >.*?)^```", DESIGN, re.MULTILINE | re.DOTALL)
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert " ".join(order.split()) == " > ".join(contract["layers"][1:])  # the first is __main__


def test_the_files_that_the_design_names_exist() -> None:
    paths = set(re.findall(r"`([\w/]+(?:/|\.py))`", DESIGN)) - {"checkpoint/", "lensmith/compare.py"}
    assert len(paths) > 30
    for path in paths:
        assert (SOURCE / path).exists() or (ROOT / path).exists(), path


def test_the_data_source(add_plugin: AddPlugin, tmp_path: Path) -> None:
    module = add_plugin("src/lensmith/data/sources/filename.py")
    functions = [name for name in vars(SourceModule) if not name.startswith("_")]
    assert {"recognises", "read", "files"} == set(functions) <= set(vars(module))
    pets = tmp_path / "pets"
    pets.mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(pets / f"{'great_dane' if i % 2 else 'siamese'}_{i}.png")
    (pets / "list.txt").write_text("")
    dataset = open_dataset(f"filename:{pets}", validation=0, test=0)
    assert dataset.labels == ("great_dane", "siamese")
    assert len(dataset.train) == 12
    needed = needed_files(f"filename:{pets}", Columns())
    assert needed is not None
    assert len(needed.paths) == 12


@pytest.fixture
def lda(add_plugin: AddPlugin) -> Iterator[None]:
    """The example of a method is one of the methods."""
    methods.methods.cache_clear()
    add_plugin("src/lensmith/learn/methods/discriminant.py")
    yield
    methods.methods.cache_clear()


@pytest.mark.long
def test_the_method_and_the_export_format(
    lda: None, add_plugin: AddPlugin, shapes: Shapes, tiny_folder: Path, run: Run
) -> None:
    options = [f"data.uri={shapes(circle=40, square=40)}", f"model.base={tiny_folder}", "data.validation=0.3"]
    options += ["model.dtype=float32", "model.device=cpu"]
    code, out, err = run("ladder", *options, "ladder.methods=[zero-shot, lda]", "--run", "ladder", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert [row["name"] for row in record["methods"]] == ["zero-shot", "lda"]
    assert record["methods"][1]["test"]["accuracy"] >= 0.9
    assert "linear discriminant analysis" in Path(record["report"]).read_text()

    sizes = ["curve.methods=[lda]", "curve.sizes=[4, 8, 16, 32]", "curve.seeds=1"]
    code, out, err = run("curve", *options, *sizes, "--run", "curve", "--json")
    assert code == 0, err
    assert list(json.loads(out)["curves"]) == ["lda"]

    code, out, err = run("predict", "my shapes/circle", "--run", "ladder/lda", "--json")
    assert code == 0, err
    answers = [p["predicted"] for p in json.loads(out)["predictions"]]
    assert answers.count("circle") >= 36

    add_plugin("src/lensmith/export/formats/plain.py")
    code, out, err = run("export", "ladder/lda", "--to", "plain", "--json")
    assert code == 0, err
    (proof,) = json.loads(out)["proofs"]
    assert (proof["way"], proof["changed"]) == ("plain Python", 0)
    assert proof["largest"] < 1e-4


def test_discriminants_separate_classes_whose_features_are_correlated(lda: None) -> None:
    module = importlib.import_module("lensmith.learn.methods.discriminant")
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 3
    # Along the first axis the classes overlap by far, and along the difference of the two they don't.
    x = torch.randn(600, 1, generator=generator).repeat(1, 2) * 5
    x[:, 1] += y + 0.1 * torch.randn(600, generator=generator)
    heads = dict(module.discriminants(x, y, ["a", "b", "c"], "tower mean", torch.ones(3)))
    assert 1.0 in heads
    accuracy = {setting: float((head(x).argmax(1) == y).float().mean()) for setting, head in heads.items()}
    assert accuracy[0.05] > accuracy[1.0]


def test_the_verb(add_plugin: AddPlugin, shapes: Shapes, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin("src/lensmith/verbs/see/classes.py")
    monkeypatch.setitem(verbs.VERBS, "classes", "see")
    monkeypatch.setitem(verbs.GROUPS["see"], "classes", "show how many images each class has")
    folder = shapes(circle=12, square=7)
    code, out, err = run("classes", f"data.uri={folder}", "data.test=0", "data.validation=0")
    assert code == 0, err
    *table, then = out.splitlines()
    assert [line.split() for line in table] == [
        ["train", "validation", "test"],
        ["circle", "12", "0", "0"],
        ["square", "7", "0", "0"],
    ]
    assert then.startswith("Next: lensmith evaluate ")
    code, out, _ = run("classes", f"data.uri={folder}", "--json")
    assert code == 0
    assert sum(json.loads(out)["classes"]["circle"].values()) == 12


def test_the_page(add_plugin: AddPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = add_plugin("src/lensmith/pages/classes.py")
    template = "src/lensmith/pages/templates/classes.html.j2"
    (tmp_path / "classes.html.j2").write_text(EXAMPLES[template], encoding="utf-8")
    load = jinja2.FileSystemLoader
    monkeypatch.setattr(jinja2, "FileSystemLoader", lambda folders: load([*folders, tmp_path]))
    data = module.ClassesData(HOSTILE, "Two classes.", [(HOSTILE, 1200), ("bag", 0)], [("Data", "here")], ["A note."])
    module.write_classes(tmp_path / "page.html", data)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert loads_nothing(page)
    assert "1,200" in text(page)
    assert "A note." in text(page)
    assert HOSTILE in text(page)


def test_the_place(add_plugin: AddPlugin, shapes: Shapes, tiny_folder: Path, run: Run) -> None:
    add_plugin("src/lensmith/places/rehearsal.py")
    shapes("pictures", circle=20, square=20)
    shutil.copytree(tiny_folder, "tiny")
    options = ["data.uri=pictures", "model.base=tiny", "model.dtype=float32", "model.device=cpu"]
    code, out, err = run("evaluate", *options, "--on", "rehearsal", "--run", "runs/there", "--json")
    assert code == 0, err
    record = json.loads(out)
    code, out, err = run("evaluate", *options, "--run", "runs/here", "--json")
    assert code == 0, err
    assert record["accuracy"] == json.loads(out)["accuracy"]
    assert Path(record["report"]) == Path("runs/there/report.html")
    assert Path(record["report"]).exists()
    code, _, err = run("evaluate", "data.uri=nowhere", "--on", "rehearsal", "--run", "runs/none")
    assert code == 2
    assert "nowhere" in err
    assert not Path("runs/none").exists()
    code, _, err = run("evaluate", *options, "--on", "rehearsal", "--detach")
    assert code == 2


def test_the_provider(add_plugin: AddPlugin, tmp_path: Path) -> None:
    add_plugin("src/lensmith/apis/providers/ollama.py")
    provider = apis.find("ollama:llava")
    ask = Ask("What is it?", "Be brief.", ("cat", "dog"))
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    body = provider.body(ask, picture(stream.getvalue(), "a", 100), ApiOptions())
    assert body["format"]["properties"]["label"]["enum"] == ["cat", "dog"]
    said = {"model": "llava", "message": {"content": '{"label": "dog"}'}, "prompt_eval_count": 20, "eval_count": 4}
    reply = provider.reply(said)
    assert (reply.name, reply.usage.input, reply.usage.output) == ("dog", 20, 4)
    with pytest.raises(Malformed):
        provider.reply({"model": "llava", "message": {"content": "a dog"}})
    assert provider.local


def test_the_model_family(add_plugin: AddPlugin, tmp_path: Path) -> None:
    add_plugin("src/lensmith/models/families/idefics3.py")
    folder = make("smolvlm", tmp_path / "smolvlm")
    options = ModelOptions(base=str(folder), dtype="float32", device="cpu")
    smolvlm = models.load_base(options)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"]}
    config["vision_config"]["model_type"] = "idefics3_vision"
    (folder / "config.json").write_text(json.dumps(config))
    idefics3 = models.load_base(options)
    assert type(idefics3).__module__ == "lensmith.models.families.idefics3"
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3)).astype(np.uint8)
    views = [stack([model.prepare(Image.fromarray(pixels))]) for model in (smolvlm, idefics3)]
    assert len(views[0]) == 2  # a grid of tiles, and the image as a whole
    with torch.no_grad():
        assert torch.equal(smolvlm.embed_images(views[0]), idefics3.embed_images(views[1]))
