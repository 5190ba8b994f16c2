"""What a model may call, live or replayed.

`registry` holds the tools and runs a call; `catalog` makes a registry from a config; `search`, `calculator`, `reader`
and `interpreter` are the tools; `replay` records calls and plays them back; `schema` checks calls that nobody ran.
`limited_process` and `web` are how a tool is kept to time and memory, and how it asks a service. `sandbox` runs model-written
code behind Linux namespaces and seccomp.
"""
