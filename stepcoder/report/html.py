"""HTML pages from the templates beside this file, for a run's report and for the other tools.

Takes the name of a template, what it shows, and Charts; gives a page that is one self-contained
file: its style, its script and its figures are inside it, and its content security policy forbids
the network.
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
    """Return a value as HTML; what a template or macro gave is HTML already."""
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


def page(template: str, title: str, subtitle: str, charts: Sequence[Chart], **values: Any) -> str:
    """Return a page; `values` are the variables of its template."""
    figures = json.dumps({chart.name: chart.figure for chart in charts})
    # Five digits are more than a plot shows, and keep the pages of long runs small.
    rounded = json.loads(figures, parse_float=lambda text: float(f"{float(text):.5g}"))
    return fragment(
        template, title=title, subtitle=subtitle, charts=charts, figures=rounded, **values
    )


def fragment(template: str, **values: Any) -> Markup:
    """Return a template filled in, as HTML that other templates take as it is."""
    return Markup(_TEMPLATES.get_template(template).render(values))
