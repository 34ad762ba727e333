"""One offline page in which traces can be read: steps, markers, entropies, verdicts, two checkpoints side by side.

page         Page, show, view_run: tables become one HTML file
view_text.js, view_pane.js, view.js     the page's script, joined in this order; view.css its looks
"""
