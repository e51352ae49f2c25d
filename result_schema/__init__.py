"""What `experiments` writes and `analysis` reads: names of tables, columns, arms, measures and endpoints;
and how files are read and bad input is answered on either side.

Both import this and neither imports the other. It is not a room of the library, which knows nothing of studies, and it
imports nothing from them.
"""
