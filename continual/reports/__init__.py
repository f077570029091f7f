"""Reports: what results come to, as text, tables, charts and one page."""
