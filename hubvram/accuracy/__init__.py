"""The scorecard: estimates held against measured and simulated peaks.

``python -m hubvram.accuracy CELLS.jsonl... --models DIR``. A cell is a line of
JSON in the terms of the interface: ``repo_id``, ``method``, ``settings``,
``peft``, ``quantization``, ``stack``, ``metric`` and ``bytes``.
"""
