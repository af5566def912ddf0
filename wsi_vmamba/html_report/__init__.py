"""One HTML file that says everything about a run, a probe, an extraction or predictions; it needs nothing but itself.

What a report is of is recognised from the folder (`kinds`). Pages are text made of tables, inline SVG and small JPEGs
(`markup`, `charts`, `pictures`); whatever comes from outside is escaped where it is put in. No metric is computed here:
figures and tables show what `evaluation`, `probing` and `prediction` find.
"""
