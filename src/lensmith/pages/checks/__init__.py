"""The pages about images: what is wrong with them, wrong labels, and where a run breaks."""
