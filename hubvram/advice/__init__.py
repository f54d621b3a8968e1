"""Advice: the estimator asked many times over. What fits on a card, and which set-up suits a goal.

Pure: snapshot and settings in, records out; no network, no database, no click.
"""
