"""Work that a verb does for a recipe, wherever it runs: the job itself, what it takes along, what happens there."""
