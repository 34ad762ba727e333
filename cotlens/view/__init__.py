"""One offline page to read traces in: steps, markers, entropies, verdicts, two runs side by side.

page         Page, show, view_run: the page of a trace, of a run, of two runs
shown        which traces a page shows, and what their run holds about each
pack         the same as JSON, with arrays of numbers in base64
view_text.js, view_pane.js, view.js     the page's script, joined in this order; view.css styles it
"""
