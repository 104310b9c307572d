"""Charts for the pages, as inline SVG."""
