"""Analysis: result files in, statistics, figures, tables and the report out."""
