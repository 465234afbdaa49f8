"""`python -m tests.robustness` writes the table anew."""

from tests.robustness import write_table

write_table()
