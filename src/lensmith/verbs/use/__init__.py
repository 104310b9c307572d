"""Use: classify images, and download weights and data for a machine without network access."""
