"""Reports: run folders come in, one HTML file that needs no network goes out.

`page.write_report` is the door. `contents` says which sections a page has; the modules beside it
turn results, scores, logged lines and images into blocks, which are plain values (`blocks`), and charts into SVG
(`charts`). Only templates/ and `charts` hold markup, and both escape whatever is put into it.
"""
