"""Reports: run folders come in, one HTML file that needs no network goes out.

`page.write_report` is the door. `one_run` and `several_runs` say which sections a page has; the modules beside them
turn results, scores, logged lines and images into blocks, which are plain values (`blocks`), and charts into SVG
(`charts`). Only templates/ and `charts` hold markup, and both escape whatever is put into it.
"""
