"""The HTML pages that show results to people who did not run the command; one module per page.

Each page is a single self-contained HTML file, with its images and charts inside. It needs no scripts and no network.
"""
