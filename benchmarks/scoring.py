"""Claim: Lensmith finds the exact best label in a small fraction of the time that others take, and the same label.

All use one model (nano), one question of about 600 tokens, and the same photographs from the same PNG files. Times
include reading the files. All compute in bfloat16, the format in which nano is stored; answers are also compared with
brute force in float32. Lensmith searches the label trie for the best label, end token included, on a prefix that all
images share. The peers run in their own environment (benchmarks/peers/):

- `outlines`: constrained generation, one image at a time, as in the public post that Lensmith started from;
- `per_label`: transformers' forward pass for each label of each image, one at a time or in padded batches of labels
  (the faster of the two counts): brute force, whose answers Lensmith's must equal;
- `decision`: transformers' own `pipeline("decision")` on the same single-token codes.

They take turns, so that a noisy machine affects all alike. A ratio is that of the medians over the rounds.

Run: python benchmarks/scoring.py [--quick]   (six minutes, longer the first time; the last line is JSON)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lensmith import models
from lensmith.config import ModelOptions, QuestionOptions, load_recipe
from lensmith.data import decode_image, open_data
from lensmith.engine.classifier import Classifier, predict
from lensmith.engine.question import codes, make_prompt, make_question
from lensmith.models.base import Model
from lensmith.runs.provenance import provenance

PEERS = Path(__file__).parent / "peers"
OURS, ROUNDS = 512, 5


class Race:
    """Lensmith and its peers on one question: a label set, and answers by name or by code."""

    def __init__(
        self, name: str, model: Model, question: QuestionOptions, labels: list[str], files: list[Path]
    ) -> None:
        self.name, self.labels, self.files = name, labels, files
        prompt = make_prompt(model, question, labels)
        self.tokens = len(prompt.before) + len(prompt.after)
        self.classifier = Classifier(model, make_question(model, question, labels), top=1, tolerance=1)
        job: dict[str, Any] = {}
        if question.answers == "codes":
            job["codes"] = codes(model.tokenizer, len(labels))
        job |= {"model": str(models.NANO), "labels": labels, "images": [str(f) for f in files]}
        job |= {"system": question.system, "text": question.text.replace("{labels}", "\n".join(labels))}
        job |= {"dtype": model.options.dtype, "threads": torch.get_num_threads()}
        job["peers"] = ["decision"] if "codes" in job else ["outlines", "per_label", "per_label_batch"]
        if len(labels) > 26 and "outlines" in job["peers"]:
            job["peers"].remove("outlines")
        self.peers: list[str] = job["peers"]
        path = files[0].parent / f"{name}.json"
        path.write_text(json.dumps(job))
        self.process = subprocess.Popen(
            [PEERS / ".venv" / "bin" / "python", PEERS / "scoring.py", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.versions = self._read()["versions"]
        self.speed: dict[str, list[float]] = {peer: [] for peer in ["lensmith", *self.peers]}
        self.answers: dict[str, dict[int, str]] = {peer: {} for peer in self.speed}
        self.count = dict.fromkeys(self.peers, 2)
        """Peer -> images in its next turn."""

    def _read(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peers of {self.name} stopped; run {PEERS / 'scoring.py'} by hand to see why")
        return json.loads(line)

    def turn(self, seconds: float, warm: bool) -> None:
        """One turn of each side. A peer gets the number of images that it scored in `seconds` in its last turn."""
        for peer in self.peers:
            start = (len(self.answers[peer]) if warm else 0) % len(self.files)
            indices = [(start + i) % len(self.files) for i in range(self.count[peer])]
            assert self.process.stdin
            self.process.stdin.write(json.dumps({"peer": peer, "images": indices}) + "\n")
            self.process.stdin.flush()
            reply = self._read()
            if warm:
                self.speed[peer].append(len(indices) / reply["seconds"])
                self.answers[peer] |= dict(zip(indices, reply["answers"], strict=True))
            self.count[peer] = max(2, min(len(self.files), int(seconds * len(indices) / reply["seconds"])))
        items = ((str(i), None, partial(decode_image, file, name=file.name)) for i, file in enumerate(self.files))
        clock = time.perf_counter()
        done = list(predict(self.classifier, items))
        if warm:
            self.speed["lensmith"].append(len(done) / (time.perf_counter() - clock))
            self.answers["lensmith"] = {int(p.id): str(p.predicted) for p in done}

    def ratio(self, *peers: str) -> float:
        """Lensmith's images per second divided by those of the fastest of these peers."""
        return round(self.median("lensmith") / max(self.median(peer) for peer in peers), 1)

    def median(self, who: str) -> float:
        """Median images per second over the rounds."""
        return statistics.median(self.speed[who])

    def agree(self, peer: str) -> tuple[int, int]:
        """How many images a peer answered as Lensmith did, and how many it answered."""
        theirs = self.answers[peer]
        return sum(self.answers["lensmith"][i] == label for i, label in theirs.items()), len(theirs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short round, to check that it runs")
    rounds, seconds = (1, 1.0) if parser.parse_args().quick else (ROUNDS, 4.0)
    subprocess.run([PEERS / "setup.sh"], check=True)
    model, exact = models.load_base(ModelOptions(dtype="bfloat16")), models.load_base(ModelOptions(dtype="float32"))
    system, _, text = (PEERS / "question.txt").read_text().strip().partition("\n---\n")
    dataset = open_data(load_recipe("demo-fashion").data)
    ten, hundred = list(dataset.labels), (PEERS / "labels_100.txt").read_text().split("\n")[:100]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(OURS)]
        for i, file in enumerate(files):
            dataset.test.image(i).save(file)
        by_name = QuestionOptions(text=text, system=system)
        by_code = QuestionOptions(text=text, system=system, answers="codes")
        races = [
            Race("10 labels", model, by_name, ten, files),
            # A hundred names are long enough without the system message, which is about clothes.
            Race("100 labels", model, QuestionOptions(text=text), hundred, files),
            Race("10 codes", model, by_code, ten, files),
            Race("10 labels, float32", exact, by_name, ten, files),
            Race("100 labels, float32", exact, QuestionOptions(text=text), hundred, files),
        ]
        for i in range(rounds + 1):
            for race in races:
                race.turn(seconds, warm=i > 0)  # the first round is a warm-up
        for race in races:
            race.process.kill()
    names, many, coded, *checks = races
    print(f"nano, {OURS} photographs, {rounds} rounds, {provenance()['machine']}, peers: {names.versions}")
    print(f"{'':<20}{'tokens':>7}  {'by':<16}{'images/s':>9}{'lensmith is':>14}  same answer")
    for race in races:
        print(f"{race.name:<20}{race.tokens:>7}  {'lensmith':<16}{race.median('lensmith'):>9.1f}")
        for peer in race.peers:
            same, n = race.agree(peer)
            print(f"{'':<29}{peer:<16}{race.median(peer):>9.2f}{race.ratio(peer):>12.1f} x  {same} of {n}")
    # In bfloat16 two labels can be closer than its rounding error, which depends on the order of summation.
    wrong = [r.name for r in checks for p in ("per_label", "per_label_batch") if r.agree(p)[0] < r.agree(p)[1]]
    print(
        json.dumps(
            {
                "ratio_outlines": names.ratio("outlines"),
                "ratio_per_label_10": names.ratio("per_label", "per_label_batch"),
                "ratio_per_label_100": many.ratio("per_label", "per_label_batch"),
                "ratio_decision_pipeline": coded.ratio("decision"),
                "images_per_s": round(names.median("lensmith"), 1),
                "images_per_s_outlines": round(names.median("outlines"), 1),
                "equal_to_brute_force": not wrong,
            }
        )
    )


if __name__ == "__main__":
    main()
