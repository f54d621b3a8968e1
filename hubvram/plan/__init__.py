"""Plan: an architecture, a method and settings, decided: what is held how, and what is trained."""
