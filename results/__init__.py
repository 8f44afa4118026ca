"""Experiments, what they gave, and the tables and figures made of that.

`python -m results.run` runs them and writes `results/NAME/result.json`; `python
-m results.tables` renders these files into the README and the docs.
"""
