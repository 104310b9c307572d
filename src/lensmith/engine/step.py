"""One training step up to its gradients.

The question runs once, images run on it in micro-batches, forwards and backwards, and the question runs backwards once
at the end.

Losses and gradients are sums over the batch, not means, so those of micro-batches and processes can simply be added.
The caller divides by the batch's weight. All randomness is a function of (seed, step), whichever process draws it and
however often. A step that is retried, resumed or split is therefore the same step. (Dropout is the exception: its masks
depend on which images run together.)
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


def images_at_once(total: int, question: int, image: int) -> int:
    """The number of images that should fit into memory together, of which Lensmith takes 60 %.

    Args:
        total: memory of the device or the machine, in bytes.
        question: what the question takes, in bytes.
        image: what an image and its answer take, in bytes.
    """
    return max(1, int((0.6 * total - question) // image))


class Step:
    """Computes the gradients of one batch after another.

    Args:
        embed_images: function from the views of n images of one shape, in the form `gradients` is given them, to
            (n, tokens, hidden) embeddings.
        note: called with a message when the micro-batch is reduced or the question is recomputed to save memory.
        tokens: function from the views of one image, in the same form, to an upper bound on the number of its
            embeddings; None if the views are pixels.
        head: class head that answers instead of the decoder.
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
        self._micro_batch_given = recipe.train.micro_batch is not None
        self._tokens = tokens or (lambda views: model.tokens(shape_of(views)))
        lengths = [len(answer) for answers in prompt.answers for answer in answers]
        compared = 1 + (self.objective.negatives or len(lengths))
        answers = compared if self.objective.by_labels and head is None else 1
        self._text_tokens = len(prompt.after) + max(lengths) * answers
        """Estimate of the tokens that run after each image."""
        self.recompute = False
        """Whether the question runs twice, so that its activations aren't kept while the images run."""
        self._prefix_ids = torch.tensor([prompt.before], device=model.device)
        decoder = model.components["language_model"]
        self._weights = trainable(model, head)
        self._decoder_learns = any(name.startswith(decoder) for name in self._weights)
        self._frozen_prefix: Branch | None = None

    def gradients(self, images: Sequence[Views], targets: Sequence[SoftLabels], noise: Tensor, seed: int) -> Tensor:
        """Add the gradients of the batch's summed loss to the trainable weights.

        When memory runs out, the micro-batch is halved, down to one image. If that isn't enough, the question is
        recomputed. The step is then retried; its result is the same.

        Args:
            images: the views of each image, as `embed_images` takes them.
            targets: the labels of each image with their weights.
            noise: (images, labels) uniform numbers in 0..1, used to draw negatives.
            seed: for dropout.

        Returns:
            (images,) the loss of each image times its weight.

        Raises:
            UserError: there is not enough memory for one image.
        """
        if not self._micro_batch_given:
            self._limit_micro_batch(images)
        while True:
            try:
                return self._run(images, targets, noise, seed)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Outside the handler, because there the traceback still keeps the failed batch in memory.
            for weight in self._weights.values():
                weight.grad = None
            torch.cuda.empty_cache()
            tried = min(self.micro_batch, max(1, len(images)))
            if tried > 1:
                self.micro_batch = (tried + 1) // 2
                change = f"{self.micro_batch} images go through the model at once"
            elif self._decoder_learns and not self.recompute:
                self.recompute = True
                change = "the question runs twice in each step"
            else:
                raise UserError(
                    "There is not enough memory to train on one image.",
                    "Use a smaller model, model.quantize=4bit, or a smaller tune.rank.",
                )
            self.note(f"Memory ran out: from now on {change}. The result of a step is the same.")

    def _limit_micro_batch(self, images: Sequence[Views]) -> None:
        """Reduce the micro-batch to the number of images that should fit into memory.

        A GPU reports that its memory is used up. A machine that overcommits memory kills the process instead, so the
        limit is set beforehand. It depends on the total memory, not the free memory, so that a resumed step is
        bit-identical.
        """
        shapes = grouped(map(shape_of, images))
        largest = max((self._tokens(images[group[0]]) for group in shapes), default=0) + self._text_tokens
        past = self._prefix_ids.shape[1]
        model = self.model
        limit = images_at_once(model.total_memory(), model.training_memory(past), model.training_memory(largest))
        if limit < min(self.micro_batch, len(images)):
            self.micro_batch = limit
            self.note(
                f"Images this large need much memory: {limit} go through the model at once. The result of a step is "
                "the same."
            )

    def _run(self, images: Sequence[Views], targets: Sequence[SoftLabels], noise: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        prefix = self._run_prefix(self._decoder_learns and not self.recompute)
        leaves = cut(prefix) if self._decoder_learns else prefix
        losses = []
        for first in range(0, len(images), self.micro_batch):
            micro = slice(first, first + self.micro_batch)
            with self.model.autocast():
                loss = self.objective.losses(leaves, self._embed(images[micro]), targets[micro], noise[micro])
            loss.sum().backward()
            losses.append(loss.detach())
        if self._decoder_learns:
            if self.recompute:
                torch.manual_seed(seed)  # for the same dropout
                prefix = self._run_prefix(True)
            hand_on(leaves, prefix)
        return torch.cat(losses) if losses else torch.zeros(0, device=self.model.device)

    def _run_prefix(self, with_gradients: bool) -> Branch:
        """The question up to the image. If the decoder is frozen, it runs only once for all steps."""
        if self._frozen_prefix is not None:
            return self._frozen_prefix
        with self.model.autocast(), torch.set_grad_enabled(with_gradients):
            _, branch = grow(self.model.decoder, self.model.embed(self._prefix_ids))
        if not self._decoder_learns:
            self._frozen_prefix = branch
        return branch

    def _embed(self, images: Sequence[Views]) -> list[Tensor]:
        """(tokens, hidden) embeddings of each image, computed in one pass for each shape."""
        embeddings: dict[int, Tensor] = {}
        for group in grouped(map(shape_of, images)):
            views = stack([images[i] for i in group])
            embeddings |= zip(
                group, self.embed_images(tuple(view.to(self.model.device) for view in views)), strict=True
            )
        return [embeddings[i] for i in range(len(images))]
