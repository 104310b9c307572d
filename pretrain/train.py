"""Trains `nano` in two stages: the vision tower alone, then the whole model.

Trained end to end from the first step, a model this small ignores the image for hundreds of thousands of samples and
learns the language prior instead. So the tower learns first to tell the names apart with a throw-away linear head on
its mean feature, while the augmentation grows from mild to strong; then the whole model learns to answer questions,
the tower at a fifth of the learning rate. Each stage runs for a number of minutes and lowers its learning rate to zero.

In the second stage a group of pictures shares a prompt, which runs once for all of them
(`lensmith.engine.branches`).

Run: python pretrain/train.py WORK_DIR --tower 45 --whole 30     (minutes, on two CPU cores)
     python pretrain/train.py WORK_DIR --whole 30 --from-tower   (the second stage alone)
Writes WORK_DIR/tower.pt, WORK_DIR/model/ (a Hugging Face model folder) and WORK_DIR/log.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing import Value
from torch.utils.data import DataLoader, IterableDataset
from transformers import Lfm2VlForConditionalGeneration

from augment import augment
from base import make_config, make_tokenizer, save_processor
from lensmith.engine.branches import fork_all, grow
from pictures import SYNONYMS
from prompts import ALSO, WITH_LIST, WITHOUT_LIST, make_prompt

BATCH = 256  # pictures a step, both stages
GROUP = 64  # pictures that share a prompt
TAIL = "<|image_end|><|im_end|>\n<|im_start|>assistant\n"
HEAD = "<|startoftext|><|im_start|>user\n"


class Pictures(IterableDataset[Any]):
    """Endless batches, made in a process of its own: (pixels, labels) or, with a tokenizer, (pixels, groups)."""

    def __init__(self, data: Any, concepts: list[str], progress: Any, strongest: float, tokenizer: Any = None) -> None:
        self.planes, self.label, self.concepts = data["planes"], data["label"], concepts
        self.progress, self.strongest, self.tokenizer = progress, strongest, tokenizer
        index = {c: i for i, c in enumerate(concepts)}
        self.digits = [index[c] for c in "0123456789"]
        self.letters = [i for i, c in enumerate(concepts) if len(c) == 1 and not c.isdigit()]
        self.clothes = [index[c] for c in SYNONYMS]
        self.things = [i for i, c in enumerate(concepts) if len(c) > 1]
        order = np.argsort(self.label, kind="stable")
        bounds = np.searchsorted(self.label[order], np.arange(len(concepts) + 1))
        self.where = [order[bounds[i] : bounds[i + 1]] for i in range(len(concepts))]
        # A name drawn by many sets is seen more often, but less than in proportion.
        many = np.array([len(self.where[i]) for i in self.things]) ** 0.5
        self.thing_share = many / many.sum()

    def draw(self, labels: np.ndarray, rng: np.random.Generator) -> Tensor:
        """(n, 16, 768) patches of pictures of these concepts, normalised as the image processor does."""
        rows = [self.where[i][rng.integers(len(self.where[i]))] for i in labels]
        planes = torch.from_numpy(self.planes[rows])
        character = torch.from_numpy(np.array([len(self.concepts[i]) == 1 for i in labels]))
        strength = self.strongest * min(1.0, self.progress.value / 0.6)
        image = augment(planes, character, max(0.1, strength)) * 2 - 1
        n = len(image)
        return image.view(n, 3, 4, 16, 4, 16).permute(0, 2, 4, 3, 5, 1).reshape(n, 16, 768).to(torch.bfloat16)

    def labels(self, kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
        if kind == "thing":
            return rng.choice(self.things, n, p=self.thing_share)
        return rng.choice({"digit": self.digits, "letter": self.letters, "clothes": self.clothes}[kind], n)

    def __iter__(self) -> Iterator[Any]:
        torch.set_num_threads(1)
        seed = torch.initial_seed() % 2**31
        rng, py = np.random.default_rng(seed), random.Random(seed)
        while True:
            if self.tokenizer is None:
                parts = {"digit": 48, "letter": 24, "clothes": 40}
                labels = np.concatenate([self.labels(k, n, rng) for k, n in parts.items()])
                labels = np.concatenate([labels, self.labels("thing", BATCH - len(labels), rng)])
                yield self.draw(labels, rng), torch.from_numpy(labels)
            else:
                groups, everything = [], []
                for _ in range(BATCH // GROUP):
                    group, labels = self.group(rng, py)
                    groups.append(group)
                    everything.append(labels)
                yield self.draw(np.concatenate(everything), rng), groups

    def group(self, rng: np.random.Generator, py: random.Random) -> tuple[tuple[list[int], Tensor], np.ndarray]:
        """One prompt for GROUP pictures: (its token ids, (GROUP, t) answer ids padded with -1), and their concepts."""
        kind = py.choices(["thing", "clothes", "digit", "letter"], [0.5, 0.2, 0.2, 0.1])[0]
        listed = py.random() < 0.75
        if listed:
            if kind == "digit" and py.random() < 0.7:
                pool = np.array(self.digits)
            elif kind == "clothes" and py.random() < 0.5:
                pool = np.array(self.clothes)
            else:
                wanted = py.choice([2, 3, 4, 5, 6, 8, 10, 12, 16, 24])
                pool = np.unique(self.labels(kind, wanted, rng))
                if kind == "clothes" and py.random() < 0.5:
                    pool = np.unique(np.concatenate([pool, self.labels("thing", wanted // 2, rng)]))
            labels = rng.choice(pool, GROUP)
        else:
            labels = self.labels(kind, GROUP, rng)
            pool = np.unique(labels)
        candidates = [self.concepts[i] for i in pool]
        text, answer = make_prompt(candidates, "thing" if kind == "clothes" else kind, listed, py)
        ids = self.tokenizer.encode(HEAD + text + "<|image_start|>", add_special_tokens=False)
        answers = {c: self.tokenizer.encode(a + "<|im_end|>", add_special_tokens=False) for c, a in answer.items()}
        longest = max(map(len, answers.values()))
        rows = [answers[self.concepts[i]] for i in labels]
        return (ids, torch.tensor([r + [-1] * (longest - len(r)) for r in rows])), labels


def encode_images(model: Any, patches: Tensor) -> Tensor:
    """(n, 16, 768) patches -> (n, 16, hidden): the tower at its native 4 x 4 grid, where positions need no resizing."""
    tower = model.model.vision_tower
    embedded = tower.embeddings.patch_embedding(patches) + tower.embeddings.position_embedding.weight
    out: Tensor = tower.post_layernorm(tower.encoder(inputs_embeds=embedded).last_hidden_state)
    return out


def optimizers(modules: dict[str, nn.Module], rates: dict[str, float]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, heads, norms and biases."""
    matrices, rest, seen = [], [], set()
    for name, module in modules.items():
        for key, p in module.named_parameters():
            if id(p) in seen:
                continue
            seen.add(id(p))
            inner = p.ndim == 2 and "embed" not in key and name != "head"
            if inner:
                matrices.append({"params": [p], "lr": 0.02 * rates[name]})
            else:
                rest.append({"params": [p], "lr": 2e-3 * rates[name], "weight_decay": 0.0 if p.ndim < 2 else 0.01})
    muon = torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="original", momentum=0.95)
    made = [muon, torch.optim.AdamW(rest, betas=(0.9, 0.98))]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def run_stage(
    stage: str, minutes: float, loader: Any, progress: Any, made: list[torch.optim.Optimizer], loss_of: Any,
    check: Any, log: Path,
) -> None:  # fmt: skip
    start, step, seen, total = time.time(), 0, 0, 0.0
    next_check = 120.0
    for batch in loader:
        done = (time.time() - start) / (60 * minutes)
        progress.value = min(1.0, done)
        if done >= 1:
            break
        rate = min(1.0, (step + 1) / 200) * min(1.0, (1 - done) / 0.7)
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
        loss = loss_of(batch)
        loss.backward()
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen, total = step + 1, seen + BATCH, total + loss.item()
        if step % 100 == 0 or time.time() - start > next_check:
            row: dict[str, Any] = {"stage": stage, "step": step, "minutes": round((time.time() - start) / 60, 2)}
            row |= {"loss": round(total / (step % 100 or 100), 4), "samples_per_s": round(seen / (time.time() - start))}
            if time.time() - start > next_check:
                row |= check()
                next_check += 240
            total = 0.0 if step % 100 == 0 else total
            print(json.dumps(row), flush=True)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--tower", type=float, default=45)
    parser.add_argument("--whole", type=float, default=30)
    parser.add_argument("--from-tower", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the other core draws the pictures; two threads here only wait for each other

    data = np.load(args.work / "pictures.npz")
    data = {"planes": data["planes"], "label": data["label"], "concepts": data["concepts"].tolist()}
    concepts = data["concepts"]
    # Held out: a fiftieth of the drawings, to read how well new drawings of known names are told apart.
    held = np.random.default_rng(0).random(len(data["label"])) < 0.02
    train = {"planes": data["planes"][~held], "label": data["label"][~held]}
    unseen = {"planes": data["planes"][held], "label": data["label"][held]}
    del data

    corpus = [n for c in concepts for n in ALSO.get(c, [c])] * 3
    corpus += [c.capitalize() for c in concepts] + [f" {c}" for c in concepts] + (WITH_LIST + WITHOUT_LIST) * 20
    tokenizer = make_tokenizer(corpus)
    config: Any = make_config(tokenizer)
    config.dtype = None
    model: Any = Lfm2VlForConditionalGeneration(config).float()
    # On a CPU the fused attention is slow at 16 tokens: its backward took half of each step (470, not 950 samples/s).
    model.set_attn_implementation("eager")
    print(f"{model.num_parameters():,} parameters, {len(concepts):,} names, {len(train['label']):,} pictures")
    log = args.work / "log.jsonl"
    progress = Value("d", 0.0)

    def loader(tokenizer: Any, strongest: float) -> Any:
        pictures = Pictures(train, concepts, progress, strongest, tokenizer)
        # The worker shares the pictures' memory with this process (fork), and stays two batches ahead.
        return DataLoader(pictures, batch_size=None, num_workers=1, prefetch_factor=4)

    if not args.from_tower:
        head = nn.Linear(config.vision_config.hidden_size, len(concepts))
        made = optimizers({"tower": model.model.vision_tower, "head": head}, {"tower": 1.0, "head": 1.0})

        def tower_loss(batch: Any) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                logits = head(encode_images(model, batch[0]).float().mean(1))
            return F.cross_entropy(logits.float(), batch[1], label_smoothing=0.05)

        @torch.no_grad()
        def tower_check() -> dict[str, float]:
            torch.save(model.state_dict(), args.work / "tower.pt")
            rng, state = np.random.default_rng(1), torch.get_rng_state()
            torch.manual_seed(1)
            pictures = Pictures(unseen, concepts, Value("d", 0.4), 0.8)
            thing = np.array([i for i in range(len(concepts)) if len(pictures.where[i]) and len(concepts[i]) > 1])
            out: dict[str, float] = {}
            for kind, pool in (("thing", thing), ("digit", np.array(pictures.digits))):
                labels = rng.choice(pool, 512)
                with torch.autocast("cpu", torch.bfloat16):
                    found = head(encode_images(model, pictures.draw(labels, rng)).float().mean(1)).argmax(1)
                out[f"held_out_{kind}"] = (found == torch.from_numpy(labels)).float().mean().item()
            torch.set_rng_state(state)
            return out

        run_stage("tower", args.tower, loader(None, 0.8), progress, made, tower_loss, tower_check, log)
        print(tower_check())
    model.load_state_dict(torch.load(args.work / "tower.pt", weights_only=True))

    core = model.model
    tail = torch.tensor(tokenizer.encode(TAIL, add_special_tokens=False))
    made = optimizers(
        {"tower": core.vision_tower, "projector": core.multi_modal_projector, "text": core.language_model},
        {"tower": 0.2, "projector": 0.5, "text": 0.5},
    )
    embed = core.language_model.embed_tokens

    def whole_loss(batch: Any) -> Tensor:
        patches, groups = batch
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_images(model, patches)
            images = core.multi_modal_projector(features.view(-1, 4, 4, features.shape[-1])).flatten(1, 2)
            hidden, targets = [], []
            for image, (ids, answers) in zip(images.split(GROUP), groups, strict=True):
                _, prompt = grow(core.language_model, embed(torch.tensor([ids])))
                ends = embed(tail).expand(GROUP, -1, -1)
                spoken = embed(answers[:, :-1].clamp(min=0))
                segment = torch.cat([image.to(ends.dtype), ends, spoken], 1)
                out, _ = grow(core.language_model, segment, fork_all(prompt, GROUP))
                keep = answers >= 0
                hidden.append(out[:, -answers.shape[1] :][keep])
                targets.append(answers[keep])
            logits = model.lm_head(torch.cat(hidden))
        return F.cross_entropy(logits.float(), torch.cat(targets))

    def whole_check() -> dict[str, float]:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(args.work / "model")
        save_processor(args.work / "model", tokenizer)
        return {}

    run_stage("whole", args.whole, loader(tokenizer, 0.8), progress, made, whole_loss, whole_check, log)
    whole_check()


if __name__ == "__main__":
    main()
