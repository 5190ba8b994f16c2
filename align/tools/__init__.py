"""Tools that a model can call: typed functions with a docstring.

`registry.py` holds the tools and runs a call; `catalog.py` makes a registry from a config; `search.py`,
`calculator.py`, `reader.py` and `interpreter.py` are the tools. `replay.py` records calls and replays them, and
`schema.py` checks calls that were not executed. `limited_process.py` limits a tool's time and memory, and `web.py`
makes requests to web services. `sandbox/` runs code that a model wrote, isolated by Linux namespaces and seccomp.
"""
