"""A verdict as one HTML page to attach to a bug report.

It loads nothing, runs no script, follows the reader's light or dark setting, and holds no path of
the home folder, no credentials and no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from grpoenv import __version__
from grpoenv.checks import Finding
from grpoenv.html_document import document
from grpoenv.probe import Probe
from grpoenv.redaction import redacted
from grpoenv.report import probe_text
from grpoenv.report_verdict import remedies, verdict_line
from grpoenv.verify import Verdict

__all__ = ["html_text"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0; }
article { border: 1px solid var(--line); border-left-width: .4rem; border-radius: .4rem;
  padding: .8rem 1rem; margin: 1rem 0; }
.problem { border-left-color: #c62828; } .undetermined { border-left-color: #8e5fd6; }
.warning { border-left-color: #d68a00; } .note { border-left-color: var(--line); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .5rem 0 0; }
dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
pre, code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: .4rem; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; }
"""


def html_text(verdict: Verdict, probe: Probe, home: Path) -> str:
    """Return the page; ``home`` is the folder that is written as ``~``."""
    main = [
        f"<h1>{escape(verdict_line(verdict))}</h1>",
        *[f"<pre>{escape(remedy)}</pre>" for remedy in remedies(verdict)],
        *map(_article, verdict.findings),
        "<h1>The machine</h1>",
        f"<pre>{escape(probe_text(probe))}</pre>",
        "<h1>The packages</h1>",
        _details(f"{len(probe.packages)} installed", probe.packages.items()),
        "<h1>The checks</h1>",
        _details(
            f"{len(verdict.checks)} ran",
            [(name, f"{seconds:.3f} s") for name, seconds in verdict.seconds.items()],
        ),
        f"<p>grpoenv {escape(__version__)}</p>",
    ]
    return document("grpoenv verify", _STYLE, redacted("\n".join(main), home))


def _article(finding: Finding) -> str:
    rows = [(finding.severity.value, finding.message)]
    if len(finding.chain) > 1:
        rows.append(("chain", " → ".join(finding.chain)))
    rows += [("evidence", finding.evidence), ("check", finding.check)]
    if finding.remedy:
        rows.append(("remedy", finding.remedy))
    items = "".join(f"<dt>{head}</dt><dd>{escape(text)}</dd>" for head, text in rows if text)
    culprit = escape(finding.culprit)
    return f'<article class="{finding.severity.value}"><h2>{culprit}</h2><dl>{items}</dl></article>'


def _details(summary: str, rows: Iterable[tuple[object, object]]) -> str:
    cells = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<details><summary>{escape(summary)}</summary><table>{cells}</table></details>"
