"""The playground: one HTML file that holds a model and runs it in the browser, without a server.

`export.py` makes the data: a JSON header (sizes, names of sites, the task's examples) and the weights. `bundle.py` puts
the JavaScript modules of `static/` into one script. `page.py` writes the file. In `static/`, `engine/` computes what
`interp_kit.engine` computes, under the same edits; `panels/` and `views/` draw it. A task chooses its view by
`AbstractTask.playground`; every other task has the view of tokens.
"""
