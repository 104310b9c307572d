"""Claim: images enter the model exactly as from transformers' own processors, though Lensmith runs none of their code.

Pictures of many sizes and shapes are prepared by `Lfm2VlProcessor` with `Lfm2VlImageProcessor`, and by
`Qwen2VLImageProcessor` (LFM3-VL's), on torchvision's kernels, in the peers' environment; and by Lensmith. Compared are:
number and order of tiles, rows and columns of patches, the number of patches (the attention mask's length), every value
that enters the vision tower, and the tokens in the image's place. LFM2-VL is tested as published (64 to 256 tokens, 2
to 10 tiles of 512 pixels and a thumbnail), without the thumbnail, as the 450M is, and without splitting.

For many more image sizes, only the sizes of the views are compared, without pixels.

Lensmith deviates on purpose for images that are so elongated that the original exceeds its token budget (one step wide
and longer than the budget: from about 1 : 256 for LFM2-VL, 1 : 128 for LFM3-VL): it squeezes them into the budget. Such
sizes are counted separately, and no such picture is compared. LFM3-VL's original refuses images from 1 : 200. SmolVLM's
reference is Pillow's Lanczos filter, and is in the test suite (tests/models/test_families.py).

Run: python benchmarks/parity.py [--record]   (several minutes; the last line is JSON)
`--record` also writes tests/models/vectors/, which the test suite compares with where there is no torchvision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensmith import models
from lensmith.config import ModelOptions
from lensmith.models.base import Model
from lensmith.models.families import lfm2_vl, lfm3_vl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.models import checkpoints, fed, pictures  # noqa: E402

PEERS = Path(__file__).parent / "peers"
VECTORS = ROOT / "tests" / "models" / "vectors"
COUNT, SIZES, POINTS = 60, 10_000, 32
RECORDED = 2_100_000
"""The largest pictures, in pixels, that are recorded for every setting, so that the test suite stays fast; larger ones
are recorded for the first setting only."""


class Original:
    """transformers' processors, in their own environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [PEERS / ".venv" / "bin" / "python", PEERS / "parity.py", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def _ask(self, **job: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer stopped at {job}; run {PEERS / 'parity.py'} by hand to see why")
        return json.loads(line)

    def make(self, setting: str, case: pictures.Case) -> tuple[dict[str, Any], torch.Tensor]:
        """Their description of a picture, and the (tiles, patches, values) they make of it."""
        return self._ask(setting=setting, case=case), torch.from_numpy(np.load(self.folder / "values.npy"))

    def views(self, setting: str, sizes: list[tuple[int, int]]) -> list[list[list[int]] | None]:
        """The sizes of the views of images of these (height, width); None for images that they refuse."""
        found: list[list[list[int]] | None] = self._ask(setting=setting, sizes=sizes)
        return found


def compared(model: Model, case: pictures.Case, found: dict[str, Any], values: torch.Tensor) -> dict[str, Any]:
    """What Lensmith and the original agree on for a picture; `apart` is the largest difference of two values."""
    views = model.prepare(pictures.picture(*case))
    patches, shapes, words = fed.patches(model, views), fed.shapes(model, views), fed.words(model, views)
    ids = model.tokenizer.encode(words, add_special_tokens=False)
    same = {"tiles": shapes == found["shapes"], "masks": [len(p) for p in patches] == found["lengths"]}
    same |= {"words": words == found["words"] and ids == found["ids"]}
    if not (same["tiles"] and same["masks"]):
        return same | {"apart": float("inf"), "equal": False}
    pairs = [(mine, theirs[: len(mine)]) for mine, theirs in zip(patches, values, strict=True)]
    as_bytes = ([fed.levels(model, values) for values in pair] for pair in pairs)
    return same | {
        "apart": max(float((mine - theirs).abs().max()) for mine, theirs in pairs),
        "equal": all(torch.equal(mine.round(), theirs.round()) for mine, theirs in as_bytes),
    }


def same_sizes(model: Model, original: Original, setting: str) -> tuple[int, int, int]:
    """For how many image sizes the views' sizes are equal, for how many unequal, and for how many the original exceeds
    the budget or refuses the image."""
    rng = np.random.default_rng(0)
    anything = np.exp2(rng.uniform(0, 14, (SIZES // 2, 2))).astype(int)
    side = model.token_side
    near = rng.integers(1, 80, (SIZES // 2, 2)) * side // 2 + rng.integers(-1, 2, (SIZES // 2, 2))  # roundings
    sizes = [(int(high), int(wide)) for high, wide in np.concatenate([anything, near])]
    equal = unequal = beyond = 0
    for size, views in zip(sizes, original.views(setting, sizes), strict=True):
        if views is None or views[-1][0] * views[-1][1] > most(model):
            beyond += 1
        elif [list(view) for view in model.sizes(*size)] == views:
            equal += 1
        else:
            unequal += 1
            print(f"{setting}: {size} is shown as {model.sizes(*size)} and not {views}", file=sys.stderr)
    return equal, unequal, beyond


def most(model: Model) -> int:
    """The budget of an image that is not split, in pixels."""
    assert isinstance(model, lfm2_vl.Model | lfm3_vl.Model)
    return model.max_pixels


def recorded(model: Model, case: pictures.Case, found: dict[str, Any], values: torch.Tensor) -> dict[str, Any]:
    """What the test suite compares Lensmith with: the mean and some values of each tile, as levels."""
    tiles = []
    for k, (tile, length) in enumerate(zip(values, found["lengths"], strict=True)):
        levels = fed.levels(model, tile[:length])
        some = levels[pictures.sample_indices(k, POINTS, len(levels))]
        assert (some - some.round()).abs().max() < 0.01
        tiles.append([round(float(levels.double().mean()), 3), some.round().int().tolist()])
    return {"case": case, "shapes": found["shapes"], "words": pictures.runs(found["words"]), "tiles": tiles}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true", help="write the test suite's vectors")
    record = parser.parse_args().record
    subprocess.run([PEERS / "setup.sh"], check=True)
    torch.set_num_threads(1)
    vectors: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    total, all_sizes = defaultdict[str, float](float), pictures.cases(COUNT)
    print(f"{'':<14}{'images':>8}{'tiles':>8}{'masks':>8}{'tokens':>8}{'bytes equal':>13}{'largest difference':>20}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = Original(folder)
        for setting, (family, changes) in pictures.SETTINGS.items():
            base = checkpoints.make(family, folder / setting, **changes)
            model = models.load_base(ModelOptions(base=str(base), dtype="float32", device="cpu"))
            rows, kept = [], []
            for case in all_sizes:
                found, values = original.make(setting, case)
                rows.append(compared(model, case, found, values))
                if not all(rows[-1][key] for key in ("tiles", "masks", "words")) or rows[-1]["apart"] > 1e-4:
                    print(f"{setting}: {case} differs: {rows[-1]}", file=sys.stderr)
                area = case[0] * case[1]
                if area <= RECORDED or (setting == "published" and area <= 3 * RECORDED):
                    kept.append(recorded(model, case, found, values))
            vectors[family][setting] = kept
            same = {key: sum(row[key] for row in rows) for key in ("tiles", "masks", "words", "equal")}
            apart = max(row["apart"] for row in rows)
            print(
                f"{setting:<14}{len(rows):>8}{same['tiles']:>8}{same['masks']:>8}{same['words']:>8}"
                f"{same['equal']:>13}{apart:>20.1e}",
                flush=True,
            )
            if setting in ("published", "lfm3"):
                equal, unequal, beyond = same_sizes(model, original, setting)
                print(f"{'':<14}{equal:,} sizes equal, {unequal} not, {beyond:,} beyond the budget or refused there")
                total["sizes_equal"] += equal
                total["sizes_unequal"] += unequal
            total["images"] += len(rows)
            total["tokens_identical"] += same["words"]
            total["bytes_equal"] += same["equal"]
            total["largest_difference"] = max(total["largest_difference"], apart)
        original.process.kill()
    if record:
        VECTORS.mkdir(exist_ok=True)
        for family, settings in vectors.items():
            lines = (
                f"{json.dumps(setting)}: [\n"
                + ",\n".join(json.dumps(one, separators=(",", ":")) for one in kept)
                + "\n]"
                for setting, kept in settings.items()
            )
            (VECTORS / f"{family}.json").write_text("{" + ",\n".join(lines) + "}\n")
    print(json.dumps({key: value if key == "largest_difference" else int(value) for key, value in total.items()}))


if __name__ == "__main__":
    main()
