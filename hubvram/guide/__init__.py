"""The seed guide beside hubvram: its figures, what hubvram says instead, and why the two differ.

``python -m hubvram.guide`` writes ``docs/guide.md`` and the tables of ``README.zh.md`` from the headers in
``fixtures/models``. It needs no network, and no figure on either page is typed by hand: the guide's are in
`figures`, all others are estimates made while the page is written.
"""
