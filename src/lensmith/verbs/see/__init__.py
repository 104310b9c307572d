"""See: a demo, the accuracy of a model, labels that are likely wrong, and all options."""
