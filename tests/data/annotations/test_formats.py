"""What each tool's files say of an image's labels, and what they must not be taken for."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from lensmith.data import open_dataset
from lensmith.data.annotations import Format, format_of, module, names
from lensmith.errors import UserError
from tests.data.pictures import write

KIND = {"type": "groundtruth/image-classification"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(8):
        write(tmp_path / f"{seed}.png", seed)
    return tmp_path


def labels(path: Path, **options: Any) -> dict[str, str]:
    dataset = open_dataset(str(path), validation=0, test=0, **options)
    return {Path(dataset.train.source(i)).stem: dataset.train.labels[i] for i in range(len(dataset.train))}


def save(path: Path, content: Any) -> Path:
    if path.suffix in (".jsonl", ".manifest"):
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def task(image: str, *choices: tuple[str, list[str]], **more: Any) -> dict[str, Any]:
    result = [{"type": "choices", "from_name": name, "value": {"choices": chosen}} for name, chosen in choices]
    return {"data": {"image": image}, "annotations": [{"result": result} | more] if choices else []}


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("function", ["recognises", "entries"])
def test_every_format_has_the_functions_of_the_protocol(name: str, function: str) -> None:
    method = inspect.signature(getattr(Format, function))
    expected = method.replace(parameters=[p for p in method.parameters.values() if p.name != "self"])
    assert inspect.signature(getattr(module(name), function)) == expected
    assert module(name).TITLE
    assert isinstance(module(name).QUESTIONS, bool)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", [{"file": "0.png", "label": "a"}]),
        ("a.json", {"images": [], "categories": []}),
        ("a.json", "nothing"),
        ("a.jsonl", [{"file": "0.png", "label": "a", "id": 3}]),
        ("a.csv", "path,label\n0.png,1\n"),
        ("a.csv", "path,target,cat\n0.png,1,0\n"),
        ("a.csv", "path,is_test,cat\n0.png,1,0\n"),
        ("a.csv", "path,width,cat\n0.png,64,0\n"),
        ("a.csv", "train,cat\n0.png,0\n"),
        ("a.csv", ""),
    ],
)
def test_tables_are_not_taken_for_annotations(tmp_path: Path, name: str, content: Any) -> None:
    assert format_of(save(tmp_path / name, content)) is None


def test_a_file_of_no_format_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"isn't a file of annotations that Lensmith knows. It reads .*a COCO file"):
        open_dataset(f"annotations:{save(tmp_path / 'a.manifest', [{'x': 1}])}")


# One label an image


def test_images_with_several_labels_stop_the_run_unless_they_are_skipped(folder: Path) -> None:
    file = save(folder / "a.csv", "TRAIN,gs://b/0.png,a\n,gs://b/1.png\ntest,gs://b/2.png,b,a\n,gs://b/3.png,b\n")
    with pytest.raises(UserError, match=r"several labels: 1, for example a\.csv line 3 \(b, a\)\. 2 have one"):
        open_dataset(str(file))
    dataset = open_dataset(str(file), several="skip", validation=0, test=0)
    assert dataset.labels == ("a", "b")
    assert "Without a label, ignored: 1 image." in dataset.notes
    assert "With several labels, ignored: 1 image." in dataset.notes


def test_a_label_that_no_image_has_alone_is_said(folder: Path) -> None:
    lines = ["training,gs://b/0.png,a", "training,gs://b/1.png,b", "training,gs://b/2.png,c,a"]
    file = save(folder / "a.csv", "\n".join(lines))
    dataset = open_dataset(str(file), several="skip", validation=0, test=0)
    assert dataset.labels == ("a", "b")
    assert "Labels that no image has alone, which are no classes: c." in dataset.notes


def test_beside_the_image_the_only_other_column_is_the_label(folder: Path) -> None:
    assert labels(save(folder / "a.csv", "id,breed\n0,x\n1,y\n")) == {"0": "x", "1": "y"}


def test_lists_of_labels_in_a_table_are_counted_too(folder: Path) -> None:
    rows = [{"path": f"{i}.png", "label": found} for i, found in enumerate([["a"], "b", [], ["a", "b"]])]
    file = save(folder / "a.jsonl", rows)
    with pytest.raises(
        UserError, match=r"several labels: 1, for example a\.jsonl row 4 \(a, b\)\. 2 have one label and 1 none"
    ):
        labels(file)
    assert labels(file, several="skip") == {"0": "a", "1": "b"}


@pytest.mark.parametrize("written", ['"{""choices"": [""a"", ""b""]}"', "\"['a', 'b']\"", '"[""a"", ""b""]"'])
def test_lists_that_are_written_as_text_are_lists(folder: Path, written: str) -> None:
    file = save(folder / "a.csv", f"image,choice\n0.png,[x]\n1.png,\"['y']\"\n2.png,{written}\n")
    with pytest.raises(UserError, match=r"several labels: 1, for example a\.csv row 3 \(a, b\)"):
        labels(file)
    assert labels(file, several="skip") == {"0": "[x]", "1": "y"}


# COCO


def coco(**more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(4)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [{"image_id": i, "category_id": 1 + i % 2} for i in range(4)],
    } | more


def test_an_image_with_boxes_of_two_categories_has_several_labels(folder: Path) -> None:
    document = coco()
    document["annotations"].append({"image_id": 0, "category_id": 2})
    with pytest.raises(UserError, match=r"several labels: 1, for example a\.json image 0 \(a, b\)"):
        labels(save(folder / "a.json", document))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"annotations": [{"image_id": 9, "category_id": 1}]}, "names the image 9, which isn't there"),
        ({"annotations": [{"image_id": 0, "category_id": 9}]}, "names the category 9, which isn't there"),
        ({"images": [{"id": 0, "file_name": "0.png"}] * 2}, "Two of the images .* have the same id"),
        ({"images": [{"id": 0}], "annotations": []}, "'file_name' is missing"),
        ({"images": 5}, "isn't a COCO file as expected"),
    ],
)
def test_a_damaged_coco_file_is_refused(folder: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        labels(save(folder / "a.json", coco(**more)))


# Label Studio


def test_people_who_disagree_give_an_image_several_labels(folder: Path) -> None:
    tasks = [task("0.png", ("kind", ["a"])), task("1.png", ("kind", ["b"])), task("2.png", ("kind", ["a"]))]
    tasks[2]["annotations"].append(task("2.png", ("kind", ["b"]))["annotations"][0])
    tasks += [task("3.png"), task("4.png", ("kind", ["b"]), was_cancelled=True)]
    file = save(folder / "a.json", tasks)
    with pytest.raises(UserError, match=r"several labels: 1.*2 have one label and 2 none"):
        labels(file)
    assert labels(file, several="skip") == {"0": "a", "1": "b"}


def test_one_of_several_questions_must_be_named(folder: Path) -> None:
    tasks = [task(f"{i}.png", ("kind", ["ab"[i % 2]]), ("view", ["front"])) for i in range(4)]
    file = save(folder / "a.json", tasks)
    with pytest.raises(UserError, match=r"several kinds of choices: kind, view.*label_column=kind"):
        labels(file)
    with pytest.raises(UserError, match=r"no choices called 'kin'. Did you mean 'kind'"):
        labels(file, label_column="kin")
    assert labels(file, label_column="kind") == {"0": "a", "1": "b", "2": "a", "3": "b"}


def test_the_image_may_have_any_field(folder: Path) -> None:
    tasks = [task(f"{i}.png", ("kind", ["ab"[i]])) for i in range(2)]
    for i, found in enumerate(tasks):
        found["data"] = {"photo": f"{i}.png", "text": "old"}
    assert labels(save(folder / "a.json", tasks)) == {"0": "a", "1": "b"}
    for found in tasks:
        found["data"]["other"] = "1.png"
    with pytest.raises(UserError, match=r"Can't tell which field .* is the image.*photo, text, other"):
        labels(save(folder / "a.json", tasks))
    assert labels(save(folder / "a.json", tasks), image_column="photo") == {"0": "a", "1": "b"}


def test_choices_of_a_name_of_their_own_in_json_min(folder: Path) -> None:
    tasks = [{"image": f"{i}.png", "animal": "ab"[i], "annotator": 1, "annotation_id": i} for i in range(2)]
    file = save(folder / "a.json", tasks)
    with pytest.raises(UserError, match=r"no choices.*data.label_column="):
        labels(file)
    assert labels(file, label_column="animal") == {"0": "a", "1": "b"}


# SageMaker and Rekognition


def test_an_attribute_for_each_label_is_one_question(folder: Path) -> None:
    file = save(
        folder / "a.manifest",
        [
            {"source-ref": f"s3://b/{i}.png", f"set_{name}": 1, f"set_{name}-metadata": KIND | {"class-name": name}}
            for i, name in enumerate("abab")
        ],
    )
    assert labels(file) == {"0": "a", "1": "b", "2": "a", "3": "b"}


def test_several_attributes_are_several_questions(folder: Path) -> None:
    file = save(
        folder / "a.manifest",
        [
            {"source-ref": f"s3://b/{i}.png", "kind-metadata": KIND | {"class-name": name}}
            | {"view-metadata": KIND | {"class-name": "front"}}
            for i, name in enumerate("ab")
        ],
    )
    with pytest.raises(UserError, match=r"several questions: kind, view.*label_column=kind"):
        labels(file)
    assert labels(file, label_column="kind") == {"0": "a", "1": "b"}


def test_a_manifest_of_boxes_is_refused(folder: Path) -> None:
    about = {"class-map": {"0": "a"}, "type": "groundtruth/object-detection"}
    file = save(folder / "a.manifest", [{"source-ref": "s3://b/0.png", "boxes": {}, "boxes-metadata": about}])
    with pytest.raises(UserError, match="no attribute with classes"):
        labels(file)


# A column for each class


@pytest.mark.parametrize("cell", ["2", "", "yes"])
def test_a_cell_that_is_neither_0_nor_1_is_refused(folder: Path, cell: str) -> None:
    file = save(folder / "a.csv", f"filename,a,b\n0.png,1,0\n1.png,0,{cell}\n")
    with pytest.raises(UserError, match=rf"a\.csv line 3 has '{cell}' in the column 'b', where 0 or 1"):
        labels(file)


def test_a_named_label_column_is_refused_where_there_is_none(folder: Path) -> None:
    file = save(folder / "a.csv", "filename,a,b\n0.png,1,0\n1.png,0,1\n")
    assert labels(file) == {"0": "a", "1": "b"}
    with pytest.raises(UserError, match="a table with a column for each class, in which no column holds the label"):
        labels(file, label_column="a")


# Vertex


def test_both_forms_of_annotation_and_an_unassigned_image(folder: Path) -> None:
    use = "aiplatform.googleapis.com/ml_use"
    rows = [
        {"imageGcsUri": "gs://b/0.png", "classificationAnnotation": {"displayName": "a"}},
        {"imageGcsUri": "gs://b/1.png", "classificationAnnotations": [{"displayName": "b"}]},
        {"imageGcsUri": "gs://b/2.png", "classificationAnnotation": {"displayName": "b"}}
        | {"dataItemResourceLabels": {use: "unassigned"}},
    ]
    assert labels(save(folder / "a.jsonl", rows)) == {"0": "a", "1": "b", "2": "b"}


# Folders


def test_images_without_a_line_are_counted(folder: Path) -> None:
    save(folder / "metadata.csv", "file_name,label\n0.png,a\n1.png,b\n")
    assert labels(folder) == {"0": "a", "1": "b"}
    dataset = open_dataset(str(folder), validation=0, test=0)
    assert "Without a line in the table of labels, ignored: 6 images." in dataset.notes


def test_metadata_without_labels_leaves_class_folders_as_they_are(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / "ab"[seed % 2] / f"{seed}.png", seed)
    save(tmp_path / "metadata.csv", "file_name,width\na/0.png,4\n")
    assert labels(tmp_path) == {"0": "a", "2": "a", "1": "b", "3": "b"}


def test_two_files_of_labels_in_one_folder_are_refused(folder: Path) -> None:
    save(folder / "metadata.csv", "file_name,label\n0.png,a\n")
    save(folder / "_classes.csv", "filename,a,b\n0.png,1,0\n")
    with pytest.raises(UserError, match=r"two files of labels: _classes\.csv and metadata\.csv"):
        open_dataset(str(folder))


def test_images_in_another_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    file = save(tmp_path / "tables" / "a.json", coco())
    with pytest.raises(UserError, match="None of the 4 image files"):
        labels(file)
    assert len(labels(file, images=str(folder))) == 4
    with pytest.raises(UserError, match="No such file or folder: 'nowhere'"):
        labels(file, images="nowhere")


@pytest.mark.parametrize("tables", [["train.csv"], ["labels.json"], ["a.csv", "train.csv", "z.csv"]])
def test_a_folder_with_a_table_says_to_give_the_table(tmp_path: Path, tables: list[str]) -> None:
    for seed in range(4):
        write(tmp_path / "images" / f"{seed}.png", seed)
    for name in tables:
        (tmp_path / name).write_text("id,label\n0,a\n1,b\n")
    usual = tables[0] if len(tables) == 1 else "train.csv"
    with pytest.raises(UserError, match=rf"are in one folder, 'images'.*give that: .*{usual}"):
        open_dataset(str(tmp_path))
