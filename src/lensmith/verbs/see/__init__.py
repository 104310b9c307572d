"""See what is there: the demo, how good a model is as it stands, which labels are wrong, which options exist."""
