"""Puts the report together: one HTML file that needs nothing else, neither network nor server."""

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path

from callbacks.report.curves import curves, tiles
from callbacks.report.facts import configuration, surroundings, time_spent
from callbacks.report.images import feature_map, nearest, reconstructions, views
from callbacks.report.record import Record, UnavailableError

_HERE = Path(__file__).parent
_log = logging.getLogger(__name__)

POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
"""Tells the browser to fetch nothing, whatever the page says."""

_SECTIONS: dict[str, Callable[[Record], str]] = {
    "Curves": curves,
    "Views": views,
    "Reconstructions": reconstructions,
    "Map of the features": feature_map,
    "Nearest neighbours": nearest,
    "Where the time went": time_spent,
    "Hardware and versions": surroundings,
    "Configuration": configuration,
}


def build_page(record: Record) -> str:
    """The report as HTML."""
    contents = {name: _content(section, record) for name, section in _SECTIONS.items()}
    shown = {name: content for name, content in contents.items() if content}
    anchors = {name: name.lower().replace(" ", "-") for name in shown}
    links = "".join(f'<a href="#{anchor}">{name}</a>' for name, anchor in anchors.items())
    sections = "".join(
        f'<section id="{anchors[name]}"><h2>{name}</h2>{content}</section>' for name, content in shown.items()
    )
    style, script = (_HERE / "page.css").read_text(), (_HERE / "page.js").read_text()
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{POLICY}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(record.title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{escape(record.title)}</h1><p>{escape(record.summary.outcome())}</p></header>"
        f"{_content(tiles, record)}<nav>{links}</nav><main>{sections}</main>"
        f'<div id="tip" hidden></div><script>{script}</script></body></html>'
    )


def _content(section: Callable[[Record], str], record: Record) -> str:
    """A section's HTML, or a sentence in its place; empty for one that does not concern this run."""
    try:
        return section(record)
    except UnavailableError as reason:
        return f'<p class="missing">{escape(str(reason))}</p>'
    except Exception:  # the run is over and its results stand: nothing here is worth losing the rest of the report for
        _log.exception("A section of the report failed: %s", section.__name__)
        return '<p class="missing">This section could not be made; the console shows why.</p>'
