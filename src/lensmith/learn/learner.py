"""A model made ready to learn: load, attach what learns, ask. The only place where the three meet."""

from __future__ import annotations

from dataclasses import dataclass

from lensmith import models
from lensmith.config import EvaluateOptions, Recipe
from lensmith.data import ImageDataset
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import Question, make_question
from lensmith.learn.batches import class_weights
from lensmith.learn.trackers import require_tracker
from lensmith.measure.evaluation import classifier_for
from lensmith.models.tuning import Coverage, Tuned, attach, coverage


@dataclass(frozen=True)
class Learner:
    """A base model of which something learns, and the question whose answers it learns."""

    tuned: Tuned
    question: Question
    coverage: list[Coverage]
    """What of the model learns, by component and layer."""

    def classifier(self, options: EvaluateOptions) -> Classifier:
        """What scores images with the weights as they are now."""
        return classifier_for(self.tuned, self.question, options)


def prepare(recipe: Recipe, dataset: ImageDataset) -> Learner:
    """A learner by a recipe. Whatever would make the training fail is refused here: before there is a run folder, and
    before hours are spent.

    Raises:
        UserError: the tracker isn't installed, a class has no training image, the model can't be loaded, the recipe
            tunes nothing or what doesn't exist, or the labels can't be told apart.
    """
    require_tracker(recipe.train.tracker)
    class_weights(dataset.train, dataset.labels, recipe.train.class_weights)
    model = models.load_base(recipe.model)
    tuned = attach(model, recipe.tune, dataset.labels, recipe.seed)
    question = make_question(model, recipe.question, dataset.labels)
    learner = Learner(tuned, question, coverage(model, tuned.head))
    learner.classifier(recipe.evaluate)
    return learner
