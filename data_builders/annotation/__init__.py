"""The annotation page: raters compare two completions in a browser, and the preferences builder reads the result.

- `settings.py`: the config.
- `tasks.py`: reads the comparisons from files.
- `database.py` and `store.py`: the database, which has every judgement on disk before the page confirms it.
- `answers.py`: models that answer prompts while raters work.
- `view.py`: what a rater sees. `rendering.py`: Markdown and formulas as harmless HTML.
- `server.py`: the web server. `guard.py`: access control. `connections.py`: limits of time and number for connections.
- `page.html`, `page.css` and `page.js`: the page.
- `export.py`: writes the judgements to a file.
"""
