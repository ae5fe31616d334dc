"""A report as people read it: in a terminal, in Markdown, and as an HTML page. Pure functions of the report."""

from perturbify.checks.render.markdown import to_markdown
from perturbify.checks.render.page import to_html
from perturbify.checks.render.text import to_text

__all__ = ["to_html", "to_markdown", "to_text"]
