"""Prediction beside measurement: tables, figures, pages and verdicts."""

from sigprop.report.build import report
from sigprop.report.problems import Problem
from sigprop.report.result import Report

__all__ = ["Problem", "Report", "report"]
