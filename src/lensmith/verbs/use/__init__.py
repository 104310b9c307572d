"""Use: classify images, and bring what is needed to a machine without network."""
