"""The annotation page: raters compare two completions in a browser, and the preferences builder reads the result.

- `settings.py`: the config.
- `tasks.py`: reads the comparisons from files.
- `database.py`, `queries.py`, `store.py`: the database, which has every judgement on disk before the page confirms it.
- `answers.py`: models that answer prompts while raters work.
- `view.py`: what a rater sees. `rendering.py`: Markdown and formulas as harmless HTML.
- `server.py`: the web server. `guard.py`: access control. `connections.py`: limits of time and number for connections.
- `page.html`, `page.css` and `page.js`: the page.
- `export.py`: writes the judgements to a file.
- `collection.py`: a batch as a stage of a run. `scripted_rater.py`: a program in the place of a rater.
- `tool_turns.py`: makes the calls of chosen responses, so that dialogs with tools continue.
"""
