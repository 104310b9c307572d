"""What the words of a command line mean: data, run or recipe; and what is said if they mean nothing, or two things."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lensmith import verbs
from lensmith.cli.parser import parse
from lensmith.config import SHIPPED, Recipe, load_recipe
from lensmith.errors import UserError
from lensmith.verbs.words import kind_of, recipe_from, words_for
from tests.conftest import Run, Shapes


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_folder(name: str, **options: str) -> Path:
    """A folder that looks like a run."""
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: earlier\ntune: {rank: 3}\ndata: {uri: 'demo:digits'}\n")
    return folder


def test_what_stands_there_decides(shapes: Shapes) -> None:
    shapes("my-images", circle=1)
    Path("photos.csv").write_text("image,label\n")
    Path("mine.yaml").write_text("tune: {rank: 7}\n")
    run_folder("runs/mine")
    for word, kind in {
        "my-images": "data",
        "my-images/": "data",
        "photos.csv": "data",
        "hub:owner/name": "data",
        "demo:digits": "data",
        "runs/mine": "run",
        "mine.yaml": "recipe",
        "demo-fashion": "recipe",
        "missing.yaml": "recipe",
    }.items():
        assert kind_of(word) == kind, word


def test_data_replaces_that_of_a_recipe_or_run(shapes: Shapes) -> None:
    shapes("my-images", circle=1)
    run_folder("runs/mine")
    Path("mine.yaml").write_text("tune: {rank: 7}\n")
    assert recipe_from(["my-images"]).data.uri == "my-images"
    assert recipe_from(["my-images"]).tune == Recipe().tune
    for words in (["mine.yaml", "my-images"], ["my-images", "mine.yaml"]):
        recipe = recipe_from([*words, "train.epochs=2"])
        assert (recipe.data.uri, recipe.tune.rank, recipe.train.epochs) == ("my-images", 7, 2)
    recipe = recipe_from(["runs/mine", "my-images"])
    assert (recipe.data.uri, recipe.tune.rank, recipe.name) == ("my-images", 3, "earlier")
    assert recipe_from(["runs/mine"]).data.uri == "demo:digits"
    assert recipe_from(["data.uri=my-images", "seed=3"]).data.uri == "my-images"


def test_what_describes_other_images_is_not_kept(shapes: Shapes) -> None:
    shapes("my-images", circle=1)
    for recipe in ("fashion-idx", "cifar100-lfm"):
        data = recipe_from([recipe, "my-images"]).data
        assert (data.class_names, data.image_column, data.label_column) == (None, None, None)
    folder = run_folder("run")
    (folder / "recipe.yaml").write_text("data: {uri: 'demo:digits', corrections: table.csv, test_limit: 5}\n")
    data = recipe_from(["run", "my-images"]).data
    assert (data.corrections, data.test_limit) == (None, 5)
    assert recipe_from(["run", "my-images", "data.corrections=mine.csv"]).data.corrections == "mine.csv"


def fails(*words: str) -> str:
    with pytest.raises(UserError) as error:
        recipe_from(words)
    return str(error.value)


def test_a_word_that_means_two_things_is_refused(shapes: Shapes) -> None:
    shapes("demo-fashion", circle=1)
    message = fails("demo-fashion")
    assert message == (
        "'demo-fashion' is both a shipped recipe and a folder here. "
        "Write demo-fashion.yaml for the recipe, or ./demo-fashion for a folder."
    )
    assert recipe_from(["./demo-fashion"]).data.uri == "./demo-fashion"
    assert recipe_from(["demo-fashion.yaml"]) == load_recipe("demo-fashion")

    run_folder("both")
    shapes("both", cat=1)
    assert "both is both a run folder and a folder with images (cat/cat 0.jpg)" in fails("both")
    assert recipe_from(["data.uri=both"]).data.uri == "both"


def test_words_that_contradict_each_other_are_refused(shapes: Shapes) -> None:
    shapes("a", circle=1)
    shapes("b", circle=1)
    run_folder("run")
    assert "two sets of images" in fails("a", "b")
    assert "two recipes or runs" in fails("run", "demo-fashion")
    assert "named twice" in fails("a", "data.uri=b")


def test_a_word_that_means_nothing_is_answered_with_what_was_meant(shapes: Shapes) -> None:
    shapes("my-images", circle=1)
    assert "Did you mean 'my-images'?" in fails("my-image")
    assert "Did you mean 'demo-fashion'?" in fails("demo-fashon")
    assert "hub:owner/name" in fails("owner/name")
    assert "There is no recipe missing.yaml" in fails("missing.yaml")
    Path("images.docx").write_bytes(b"PK")
    assert "Can't tell what kind of dataset images.docx is" in fails("images.docx")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--data", "my-images"], "lensmith train my-images"),
        (["--data=my-images"], "lensmith train my-images"),
        (["my-images", "--epochs", "3"], "Write train.epochs=3."),
        (["my-images", "--num_train_epochs=3"], "Write train.epochs=3."),
        (["my-images", "--learning-rate", "1e-4"], "Write train.learning_rate=1e-4."),
        (["my-images", "--lora-r", "8"], "Write tune.rank=8."),
        (["my-images", "--output_dir", "out"], "Write --run out."),
        (["my-images", "--resume_from_checkpoint", "out"], "Use: lensmith resume RUN."),
        (["my-images", "--rum", "x"], "Did you mean '--run'?"),
        (["my-images", "--nonsense"], "See lensmith train --help."),
        (["my-images", "epochs=3"], "Write train.epochs=3."),
        (["my-images", "num_train_epochs=3"], "Write train.epochs=3."),
        (["my-images", "lr=0.1"], "Write train.learning_rate=0.1."),
        (["my-images", "rank=4"], "Write tune.rank=4."),
        (["data=my-images"], "Name the images without an option: lensmith VERB my-images"),
        (["my-images", "tune.rnk=4"], "Did you mean 'tune.rank'?"),
    ],
)
def test_the_words_of_other_tools_are_answered_with_ours(
    run: Run, shapes: Shapes, words: list[str], answer: str
) -> None:
    shapes("my-images", circle=1)
    code, out, err = run("train", *words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.endswith(answer), line


def test_the_words_for_a_recipe_make_that_recipe_again(shapes: Shapes) -> None:
    shapes("my-images", circle=1)
    for words in (["my-images"], ["my-images", "model.base=some/folder", "tune.projector=true", "tune.rank=3"]):
        assert words_for(recipe_from(words), "runs/x") == words
    shipped = load_recipe("demo-fashion")
    assert words_for(shipped, "runs/x") == ["runs/x"], "too many options to write out"


def test_every_example_is_a_command_that_can_be_parsed() -> None:
    for name in verbs.VERBS:
        module = verbs.module(name)
        assert module.EXAMPLES, name
        for example in module.EXAMPLES:
            program, *words = shlex.split(example.partition(" > ")[0])
            assert program == "lensmith"
            args = parse(words)
            assert args.verb == name
            for word in getattr(args, "recipe", []):
                if "=" in word:
                    load_recipe(None, [word])
    assert SHIPPED.is_dir()
