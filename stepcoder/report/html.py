"""Fills the templates: HTML pages, of a run's report and of the other tools, and plain text.

A page is one self-contained file that opens from disk: it holds its style, its script and the data
of its charts, and its content security policy forbids the network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stepcoder.report.charts import Chart


def _escaped(value: Any) -> Markup:
    """Return a value as HTML, with "&quot;" for quotes; Markup is HTML already."""
    return Markup(value if hasattr(value, "__html__") else escape(str(value)))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=_escaped,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["json"] = json.dumps
_PLAIN = _TEMPLATES.overlay(finalize=None, autoescape=False)


def page(template: str, title: str, subtitle: str, charts: Sequence[Chart], **values: Any) -> str:
    """Return a page. A chart without data is left out; `values` are the template's variables."""
    figures = json.dumps({chart.name: chart.figure for chart in charts if chart.figure})
    # Five digits are more than a plot shows, and keep the pages of long runs small.
    rounded = json.loads(figures, parse_float=lambda text: float(f"{float(text):.5g}"))
    return fragment(template, title=title, subtitle=subtitle, figures=rounded, **values)


def fragment(template: str, **values: Any) -> Markup:
    """Return a template filled in, as HTML that other templates take as it is."""
    return Markup(_TEMPLATES.get_template(template).render(values))


def plain_text(template: str, **values: Any) -> str:
    """Return a template filled in, as text."""
    return _PLAIN.get_template(template).render(values)
