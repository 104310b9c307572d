"""Prepares a model for training: loads it, attaches the trainable weights and builds the question."""

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
    """A base model with trainable weights, and the question it learns to answer."""

    tuned: Tuned
    question: Question
    coverage: list[Coverage]
    """Which weights are trained, by component and layer."""

    def classifier(self, options: EvaluateOptions) -> Classifier:
        """A classifier that scores images with the current weights."""
        return classifier_for(self.tuned, self.question, options)


def prepare(recipe: Recipe, dataset: ImageDataset) -> Learner:
    """Prepare what a recipe describes. Recipes that can't be trained are refused here, before a run folder exists.

    Raises:
        UserError: the tracker isn't installed, a class has no training image, the model can't be loaded, the recipe
            tunes nothing or a component that doesn't exist, or two labels are the same to the model.
    """
    require_tracker(recipe.train.tracker)
    class_weights(dataset.train, dataset.labels, recipe.train.class_weights)
    model = models.load_base(recipe.model)
    tuned = attach(model, recipe.tune, dataset.labels, recipe.seed)
    question = make_question(model, recipe.question, dataset.labels)
    learner = Learner(tuned, question, coverage(model, tuned.head))
    learner.classifier(recipe.evaluate)
    return learner
