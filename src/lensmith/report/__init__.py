"""The report: one HTML file that tells somebody who was not there what was asked, on what data, and how sure it is.

It needs nothing but itself: no scripts, no network, pictures and charts inside.
"""

from lensmith.report.comparison import Change, ComparisonData, render_comparison, write_comparison
from lensmith.report.evaluation import Mistake, ReportData, render, write_report
from lensmith.report.ladder import LadderData, Rung, render_ladder, write_ladder
from lensmith.report.learning_curve import CurveData, Line, render_curve, write_curve
from lensmith.report.suspects import Suspect, SuspectsData, render_suspects, write_suspects
from lensmith.report.sweep import Finalist, SweepData, Trial, render_sweep, write_sweep

__all__ = [
    "Change",
    "ComparisonData",
    "CurveData",
    "Finalist",
    "LadderData",
    "Line",
    "Mistake",
    "ReportData",
    "Rung",
    "Suspect",
    "SuspectsData",
    "SweepData",
    "Trial",
    "render",
    "render_comparison",
    "render_curve",
    "render_ladder",
    "render_suspects",
    "render_sweep",
    "write_comparison",
    "write_curve",
    "write_ladder",
    "write_report",
    "write_suspects",
    "write_sweep",
]
