"""Rows -> tables, plots and a page to listen to; nothing is coded or measured here."""

from jaxcodec.report.write import report

__all__ = ["report"]
