"""One training step up to its gradients: the question once, images in micro-batches on it, backwards, the question's
gradients at the end.

Losses and gradients are sums over the batch, not means, so that micro-batches and processes just add up; whoever takes
the step divides by the batch's weight. What is random follows from seed and step alone, whichever process draws it and
however often: a step that is tried again, resumed or divided is the same step (but for dropout, whose masks depend on
what runs at once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lensmith.config import Recipe
from lensmith.engine.branches import Branch, cut, grow, hand_on
from lensmith.engine.objective import Objective, SoftLabels
from lensmith.engine.question import Prompt
from lensmith.errors import UserError
from lensmith.models.base import Model, grouped
from lensmith.models.heads import Head
from lensmith.models.memory import out_of_memory
from lensmith.models.tuning import trainable
from lensmith.models.views import Views, shape_of, stack


class Step:
    """Makes the gradients of one batch after another.

    Args:
        embed_images: the views of n images of one shape, as they are given -> (n, tokens, hidden) embeddings.
        tokens: the views of one image, as they are given -> the number of its embeddings, or more; None for pixels.
        head: what answers in the decoder's place.
        note: is told what is changed when memory runs out.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        recipe: Recipe,
        embed_images: Callable[[Views], Tensor],
        note: Callable[[str], Any],
        tokens: Callable[[Views], int] | None = None,
        head: Head | None = None,
    ) -> None:
        self.model, self.embed_images, self.note = model, embed_images, note
        self.objective = Objective(model, prompt, recipe.train, head)
        self.micro_batch = recipe.train.micro_batch or recipe.train.batch_size
        self._chosen = recipe.train.micro_batch is not None
        self._tokens = tokens or (lambda views: model.tokens(shape_of(views)))
        said = [len(form) for forms in prompt.answers for form in forms]
        most = self.objective.negatives or len(said)
        self._said = len(prompt.after) + max(said) * (1 + most if self.objective.by_labels and head is None else 1)
        self.recompute = False
        """Whether the question is run twice, so that its activations need not be kept beside those of the images."""
        self._before = torch.tensor([prompt.before], device=model.device)
        prefix = model.components["language_model"]
        self._weights = trainable(model, head)
        self._learns = any(name.startswith(prefix) for name in self._weights)
        self._kept: Branch | None = None

    def gradients(self, images: Sequence[Views], parts: Sequence[SoftLabels], noise: Tensor, seed: int) -> Tensor:
        """Add the gradients of the batch's summed loss to the weights that learn.

        When memory runs out, the micro-batch is halved, down to one image, and then the question is run twice; the
        step is tried again and is the same.

        Args:
            images: what `embed_images` takes, one by one.
            parts: the labels of each with their shares.
            noise: (images, labels) uniform numbers, by which negatives are drawn.
            seed: of dropout.

        Returns:
            (images,) the loss of each times its weight.

        Raises:
            UserError: there is not enough memory for one image.
        """
        if not self._chosen:
            self._fit(images)
        while True:
            try:
                return self._run(images, parts, noise, seed)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Here, and not in the handler, where the failed batch is still held by the traceback.
            for weight in self._weights.values():
                weight.grad = None
            torch.cuda.empty_cache()
            now = min(self.micro_batch, max(1, len(images)))
            if now > 1:
                self.micro_batch = (now + 1) // 2
                what = f"{self.micro_batch} images go through the model at once"
            elif self._learns and not self.recompute:
                self.recompute = True
                what = "the question runs twice a step"
            else:
                raise UserError(
                    "There is not enough memory to train on one image.",
                    "Use a smaller model, model.quantize=4bit, or a smaller tune.rank.",
                )
            self.note(f"Memory ran out: from now on {what}. The step is the same.")

    def _fit(self, images: Sequence[Views]) -> None:
        """No more images at once than should fit: a machine that grants memory before it has it ends the process where
        a GPU says no. By the whole memory and not by what is free, so that a resumed step is the same to the bit."""
        shapes = grouped(map(shape_of, images))
        largest = max((self._tokens(images[places[0]]) for places in shapes), default=0) + self._said
        past = self._before.shape[1]
        room = 0.6 * self.model.whole_memory() - self.model.training_memory(past)
        most = max(1, int(room // self.model.training_memory(largest)))
        if most < min(self.micro_batch, len(images)):
            self.micro_batch = most
            self.note(f"So large images need much memory: {most} go through the model at once. The step is the same.")

    def _run(self, images: Sequence[Views], parts: Sequence[SoftLabels], noise: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        whole = self._prefix(self._learns and not self.recompute)
        before = cut(whole) if self._learns else whole
        losses = []
        for first in range(0, len(images), self.micro_batch):
            part = slice(first, first + self.micro_batch)
            with self.model.autocast():
                found = self.objective.losses(before, self._embed(images[part]), parts[part], noise[part])
            found.sum().backward()
            losses.append(found.detach())
        if self._learns:
            if self.recompute:
                torch.manual_seed(seed)  # the same dropout
                whole = self._prefix(True)
            hand_on(before, whole)
        return torch.cat(losses) if losses else torch.zeros(0, device=self.model.device)

    def _prefix(self, learn: bool) -> Branch:
        """The question up to the image; where nothing of the decoder learns, it is run once and for all."""
        if self._kept is not None:
            return self._kept
        with self.model.autocast(), torch.set_grad_enabled(learn):
            _, branch = grow(self.model.decoder, self.model.embed(self._before))
        if not self._learns:
            self._kept = branch
        return branch

    def _embed(self, images: Sequence[Views]) -> list[Tensor]:
        """(tokens, hidden) embeddings of each; one pass for each shape."""
        out: dict[int, Tensor] = {}
        for places in grouped(map(shape_of, images)):
            views = stack([images[i] for i in places])
            out |= zip(places, self.embed_images(tuple(view.to(self.model.device) for view in views)), strict=True)
        return [out[i] for i in range(len(images))]
