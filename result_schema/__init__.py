"""What `experiments` writes and `analysis` reads: names of tables, columns, arms, measures and endpoints.

Both import this and neither imports the other. It is no room of the library, which knows nothing of studies, and it
imports nothing of theirs.
"""
