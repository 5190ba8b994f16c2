"""The raters' page: people compare two completions in a browser, and the preferences builder reads what they said.

`settings.py` has the config, `tasks.py` what is compared, `database.py` and `store.py` where every judgement is before
the page says so, `answers.py` the models that answer while raters work, `view.py` what a rater is shown, `server.py`
and `guard.py` the web server, `page.html`, `page.css` and `page.js` the page, `export.py` the way out.
"""
