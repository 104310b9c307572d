"""Drawings for the pages, as inline SVG."""
