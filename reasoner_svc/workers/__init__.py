"""Several workers on one question, each seeing the others' text as it is written (arXiv 2504.06261)."""
