"""The report: one HTML file that tells somebody who was not there what was asked, on what data, and how sure it is.

It needs nothing but itself: no scripts, no network, pictures and charts inside.
"""

from lensmith.report.comparison import Change, ComparisonData, render_comparison, write_comparison
from lensmith.report.evaluation import Mistake, ReportData, render, write_report

__all__ = [
    "Change",
    "ComparisonData",
    "Mistake",
    "ReportData",
    "render",
    "render_comparison",
    "write_comparison",
    "write_report",
]
