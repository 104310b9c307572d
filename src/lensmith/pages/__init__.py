"""The pages that tell somebody who was not there what was asked, on what data, and how sure it is; one module each.

A page is one HTML file that needs nothing but itself: no scripts, no network, pictures and charts inside.
"""
